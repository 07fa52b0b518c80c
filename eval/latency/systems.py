"""What each system does with a picture: the stages of a request, in order, and the bytes that travel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

import entropy.kernels  # noqa: F401  once they are loaded, they alone code
import tofc
from eval.baselines import ImageCodec, Jpeg, WebP
from eval.latency.assemble import Assembled, Picture
from eval.latency.config import ALL, SystemConfig
from eval.latency.link import Link
from eval.latency.rows import MODELLED, StageRow, Timing
from eval.latency.stages import Networks, Processor

# As devices code: without the searches that save the last bytes for many times the time.
PICTURE_CODECS: dict[str, ImageCodec] = {"jpeg": Jpeg(progressive=(False,)), "webp": WebP(effort=4)}


@dataclass(frozen=True)
class End:
    """One end of the link: a model on a machine."""

    model: Assembled
    processor: Processor
    networks: Networks
    merging: Literal["networks", "processor"] = "networks"

    def merge(self, picture: Picture, tiling: str, tokens: int) -> Timing:
        """Merging, where this machine does it."""
        where = self.processor if self.merging == "processor" else self.networks
        return where.merge(picture, tiling, tokens)


@dataclass(frozen=True)
class TimedRequest:
    """A request of one system about one picture: bytes that travel, visual tokens, and the time of every
    stage but those of the link."""

    num_bytes: int
    visual_tokens: int
    stages: dict[str, Timing]

    def rows(self, model: str, system: str, picture: str, links: list[Link]) -> Iterator[StageRow]:
        """Every stage at every link."""
        for link in links:
            how = f"{self.num_bytes} bytes, loss {link.loss:g}"
            stages = {
                **self.stages,
                "link uplink": Timing(link.uplink(self.num_bytes), MODELLED, how),
                "link round trip": Timing(link.round_trip, MODELLED, "as configured"),
            }
            for stage, timing in stages.items():
                yield StageRow(
                    model, system, picture, self.num_bytes, self.visual_tokens, link.mbit, stage,
                    timing.seconds, timing.basis, timing.how,
                )  # fmt: skip


def request(
    system: SystemConfig,
    picture: Picture,
    device: End,
    server: End,
    answer_tokens: int,
    packet_bytes: PacketBytes,
) -> TimedRequest:
    """Times one request."""
    make = _picture_request if system.kind in PICTURE_CODECS else _features_request
    num_bytes, stages = make(system, picture, device, server, packet_bytes)
    tokens = device.model.features(picture, system.tiling, system.tokens).tokens.shape[0]
    seen = (picture, system.tiling, system.tokens)
    stages |= {
        "server project": server.networks.project(*seen),
        "server prefill": server.networks.prefill(*seen),
        "server next tokens": server.networks.next_tokens(*seen, answer_tokens - 1),
    }
    return TimedRequest(num_bytes, tokens, stages)


PacketBytes = Callable[[SystemConfig, Picture, tofc.Packet], int]
"""The bytes of a packet as they are counted, from those of the packet at hand."""


def _features_request(
    system: SystemConfig, picture: Picture, device: End, server: End, packet_bytes: PacketBytes
) -> tuple[int, dict[str, Timing]]:
    """The tower is the device's; features travel, coded or not."""
    seen = (picture, system.tiling)
    stages = {
        "device preprocess": device.processor.preprocess(*seen),
        "device vision": device.networks.vision(*seen),
    }
    if system.tokens != ALL:
        stages["device merge"] = device.merge(*seen, int(system.tokens))
    features = device.model.features(*seen, system.tokens)
    if system.kind == "features":
        data = features.tokens.to(torch.float16).numpy().tobytes()
        stages["device code"] = device.processor.coding(
            lambda: features.tokens.to(torch.float16).numpy().tobytes()
        )
        stages["server decode"] = server.processor.coding(
            lambda: torch.from_numpy(np.frombuffer(data, np.float16).copy()).float()
        )
        return len(data), stages
    sender, codec = device.model.devices[system.tiling], server.model.codec
    packet = sender.encode_features(features, system.quality)
    stages["device code"] = device.processor.coding(
        lambda: bytes(sender.encode_features(features, system.quality))
    )
    data = bytes(packet)
    stages["server decode"] = server.processor.coding(
        lambda: codec.decode(tofc.Packet.from_bytes(data).payload)
    )
    return packet_bytes(system, picture, packet), stages


def _picture_request(
    system: SystemConfig, picture: Picture, device: End, server: End, packet_bytes: PacketBytes
) -> tuple[int, dict[str, Timing]]:
    """The picture travels; everything else is the server's."""
    codec, quality = PICTURE_CODECS[system.kind], system.quality
    assert quality is not None  # the configuration's own check
    data = codec.encode(picture.image, quality)
    arrived = Picture(picture.name, codec.decode(data))
    stages = {
        "device code": device.processor.coding(lambda: codec.encode(picture.image, quality)),
        "server decode": server.processor.coding(lambda: codec.decode(data)),
        "server preprocess": server.processor.preprocess(arrived, system.tiling),
        "server vision": server.networks.vision(picture, system.tiling),
    }
    if system.tokens != ALL:
        stages["server merge"] = server.merge(picture, system.tiling, int(system.tokens))
    return len(data), stages
