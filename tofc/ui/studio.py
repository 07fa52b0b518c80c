"""What the page asks for: one picture through device, packet and edge, and all there is to see of it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tofc.answer import Answer
from tofc.clusters import boundaries, clusters_of_pixels, mean_colours, tile_box
from tofc.contents import byte_sections
from tofc.device import Device
from tofc.drafting import Decoded, Pace, speculate
from tofc.drafting.drafter import Watch
from tofc.drafting.partial import PartialAnswer
from tofc.drafting.progress import follow_progress
from tofc.edge import Edge
from tofc.errors import CheckpointError
from tofc.features import Features
from tofc.images import open_image
from tofc.packet import Packet

# What people send when nobody thinks about bytes: the qualities that cameras and image services use.
JPEG_QUALITY, WEBP_QUALITY = 90, 80
SMALL_JPEG_QUALITY = 75  # Pillow's own, for a picture scaled down to what the model sees
_DRAFTS = 4  # a round
_STAGES = {
    "preprocess": ("device", "resize"),
    "vision": ("device", "vision tower"),
    "merge": ("device", "merge tokens"),
    "code": ("device", "code"),
    "decode": ("edge", "decode"),
    "project": ("edge", "project"),
    "generate": ("edge", "language model"),
    "link": ("edge", "on the way"),
}


@dataclass(frozen=True)
class _Sent:
    """A picture on its way; `as_given` is the size of its file in bytes."""

    image: Image.Image
    as_given: int
    seen: Features
    quality: int
    packet: Packet
    received: Packet


class Studio:
    """Device and edge of one model, for one request at a time."""

    def __init__(self, model: str, device: Device, edge: Edge) -> None:
        if device.codec is None:
            raise CheckpointError(f"{model} has no codec: the page needs a checkpoint of tofc")
        self.model, self.device, self.edge = model, device, edge

    @classmethod
    def load(cls, model: str) -> Studio:
        """Both sides of a bundled name, a folder or a hub id, warmed up; CheckpointError without a codec."""
        studio = cls(model, Device.from_pretrained(model), Edge.from_pretrained(model))
        # Kernels are compiled, or read, when they first run: no visitor's figures should tell of that.
        packet = studio.device.encode(Image.linear_gradient("L"))
        studio.edge.answer(packet, "What is in this picture?", max_new_tokens=2)
        return studio

    def options(self) -> dict[str, Any]:
        """What can be chosen: qualities, numbers of tokens, exits; and what is chosen unless one does."""
        codec, merging = self.device.codec, self.device.config.merging
        assert codec is not None
        most = self.device.base_config.vision_config
        side = most.image_size // most.patch_size
        full = max(member.num_parameters for member in self.edge.family)
        return {
            "model": Path(self.model).name,
            "qualities": list(codec.qualities),
            "quality": self.device.config.default_quality,
            "tokens": merging.tokens if isinstance(merging.tokens, int) else side * side,
            "max_tokens": side * side,
            "exits": [
                {
                    "name": member.name,
                    "layer": member.exit_layer,
                    "parameters": member.num_parameters,
                    "share": member.num_parameters / full,
                }
                for member in self.edge.family
            ],
            "exit": self.edge.exit,
        }

    def ask(self, data: bytes, question: str, quality: int, tokens: int, exit: str) -> dict[str, Any]:
        """One picture, given as a file, and a question: the answer, and what it took.

        Raises UserError for anything that cannot be asked, ImageError for what is no picture.
        """
        sent = self._send(data, quality, tokens)
        return self._told(sent, self.edge.answer(sent.received, question, exit=exit))

    def draft(
        self,
        data: bytes,
        question: str,
        quality: int,
        tokens: int,
        exit: str,
        draft: str,
        round_trip: float = 0.0,
        pause: Callable[[float], object] = time.sleep,
    ) -> Generator[dict[str, Any], None, None]:
        """The same, drafted by the member `draft`, while it grows: {"growing": [pieces]}, and last the whole.

        A round of drafts waits `round_trip` seconds, as it would on its way to an edge and back: `pause` is
        called for that, on another thread, and others may be served meanwhile.
        """
        sent = self._send(data, quality, tokens)

        waited = 0.0

        def run(watch: Watch) -> Decoded:
            def look(answer: PartialAnswer) -> None:
                nonlocal waited
                watch(answer)
                drafts = len(answer.tokens) - answer.checked
                if drafts == _DRAFTS or (drafts and answer.has_ended):  # they go up now
                    begin = time.monotonic()
                    pause(round_trip)
                    waited += time.monotonic() - begin

            pace = Pace(_DRAFTS)  # whether it pays or not
            return speculate(self.edge, sent.received, question, [draft, exit], pace=pace, watch=look)

        for progress in follow_progress(run, self.edge.tokenizer):
            pieces = [asdict(piece) for piece in progress.pieces]
            if progress.decoded is None:
                yield {"growing": pieces}
                continue
            counts, answer = progress.decoded.counts, progress.decoded.answer
            work = answer.timing["generate"] - waited
            answer = replace(answer, timing={**answer.timing, "generate": work, "link": waited})
            drafted = {"by": draft, "rounds": counts.rounds, "sent": counts.sent, "stood": counts.stood}
            yield {**self._told(sent, answer), "pieces": pieces, "drafted": drafted}

    def _send(self, data: bytes, quality: int, tokens: int) -> _Sent:
        image = open_image(data)
        seen = self.device.features(image, tokens)
        packet = self.device.encode_features(seen, quality)
        # What travels is bytes: the edge gets nothing else.
        return _Sent(image, len(data), seen, quality, packet, Packet.from_bytes(bytes(packet)))

    def _told(self, sent: _Sent, answer: Answer) -> dict[str, Any]:
        image = sent.image
        seconds = {**sent.packet.timing, **answer.timing}
        return {
            "answer": answer.text,
            "exit": answer.exit,
            "confidence": answer.confidence,
            "bytes": len(sent.packet),
            "quality": sent.quality,
            "tokens": sent.received.num_tokens,
            "sections": byte_sections(sent.received, self.device.codec),
            "stages": [
                {"side": _STAGES[name][0], "name": _STAGES[name][1], "seconds": value}
                for name, value in seconds.items()
                if name in _STAGES
            ],
            "sizes": image_sizes(image, sent.as_given, self.device.base_config.vision_config.image_size),
            "picture": {"width": image.width, "height": image.height},
            "clusters": _clusters(image, sent.seen),
        }


def image_sizes(image: Image.Image, as_given: int, side: int) -> list[dict[str, Any]]:
    """Bytes of the same picture as image files, largest first where people would not think about it."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    shrunk = f"JPEG, quality {SMALL_JPEG_QUALITY}, at {small.width}x{small.height}"
    sizes = {
        "the file you gave": as_given,
        f"JPEG, quality {JPEG_QUALITY}": _size(image, "JPEG", JPEG_QUALITY),
        f"WebP, quality {WEBP_QUALITY}": _size(image, "WEBP", WEBP_QUALITY),
        shrunk: _size(small, "JPEG", SMALL_JPEG_QUALITY),
    }
    return [{"name": name, "bytes": size} for name, size in sizes.items()]


def _size(image: Image.Image, kind: str, quality: int) -> int:
    file = io.BytesIO()
    image.save(file, kind, quality=quality, optimize=True)
    return file.tell()


def _clusters(image: Image.Image, seen: Features) -> dict[str, Any]:
    """The cluster of each patch, what each looks like, and where they meet, in pixels of the picture."""
    assignment, box = seen.cluster_map, tile_box(image.size, seen.tiling)
    colours = mean_colours(image, assignment, clusters_of_pixels(image, assignment, box))
    seams = "".join(f"M{x0:g} {y0:g}L{x1:g} {y1:g}" for (x0, y0), (x1, y1) in boundaries(assignment, box))
    return {
        "box": box,
        "map": assignment.tolist(),
        "colours": ["#" + "".join(f"{int(v):02x}" for v in colour) for colour in np.atleast_2d(colours)],
        "seams": seams,
    }
