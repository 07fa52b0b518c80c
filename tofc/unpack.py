"""From a packet to features, exactly as its encoder reconstructed them; no network runs."""

from __future__ import annotations

from typing import Any

import torch

from entropy import FeatureCodec
from entropy.errors import StreamError
from tofc.clock import Stopwatch
from tofc.errors import CheckpointError, PacketError
from tofc.features import Features
from tofc.packet import TAG_BYTES, Packet
from tofc.tiling import tile_layout


def unpack(packet: Packet | bytes, codec: FeatureCodec | None, config: Any) -> list[Features]:
    """The pictures of a packet as decoded features with their layout; `config` is the base model's.

    Raises PacketError for a packet of another model and for one that is not whole, CheckpointError without a
    codec.
    """
    packet = packet if isinstance(packet, Packet) else Packet.from_bytes(packet)
    codec = codec_of(packet, codec)
    counts = [*packet.token_counts, packet.num_tokens - sum(packet.token_counts)]
    if min(counts) < 1:
        raise PacketError(f"the packet's token counts {counts} leave a picture without tokens")
    layouts = [tile_layout(size, packet.tiling, config) for size in packet.image_sizes]
    for count, (height, width), layout in zip(counts, packet.image_sizes, layouts, strict=True):
        if count > layout.num_tokens:  # looked at first: no more is decoded than a picture can hold
            raise PacketError(
                f"the packet holds {count} tokens for a picture of {width}x{height}, "
                f"which has {layout.num_tokens}"
            )
    watch = Stopwatch(torch.device("cpu"))
    try:
        decoded = torch.from_numpy(codec.decode(packet.payload))  # [sum K, C]
    except StreamError as error:
        raise PacketError(f"the packet's payload cannot be decoded: {error}") from error
    timing = {"decode": watch.lap() / len(counts)}
    return [
        Features(tokens, size, packet.tiling, layout, timing=timing)
        for tokens, size, layout in zip(decoded.split(counts), packet.image_sizes, layouts, strict=True)
    ]


def codec_of(packet: Packet, codec: FeatureCodec | None) -> FeatureCodec:
    """The codec, if it is the one that made the packet; errors of `unpack`."""
    if codec is None:
        raise CheckpointError(
            "this is a plain LLaVA-OneVision model without codec: it cannot read packets. "
            "Load a checkpoint of tofc that has it as its base"
        )
    tag = codec.fingerprint[:TAG_BYTES]
    if packet.model_tag != tag:
        raise PacketError(
            f"the packet was made by another model (its tag is {packet.model_tag.hex()}, this edge "
            f"has {tag.hex()}): load the checkpoint that encoded it, or encode again with this one"
        )
    return codec
