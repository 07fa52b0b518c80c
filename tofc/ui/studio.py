"""What the page asks for: one picture through device, packet and edge, and all there is to see of it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tofc.answer import Answer
from tofc.contents import byte_sections
from tofc.device import Device
from tofc.drafting import Decoded, Pace, speculate
from tofc.drafting.drafter import Watch
from tofc.drafting.progress import follow_progress
from tofc.drafting.rounds import PartialAnswer
from tofc.edge import Edge
from tofc.errors import CheckpointError, UserError
from tofc.examples import examples_for, questions_for
from tofc.features import Features, boundaries, clusters_of_pixels, mean_colours, tile_box
from tofc.images import open_image
from tofc.packet import Packet
from tofc.ui.rivals import Search, image_sizes, packets_by_size, smallest_file

# Tokens of the longest answer that other packets and image files are asked to keep to the letter.
LONGEST_COMPARED = 12
PACKET = "TOFC packet"
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
    """Device and edge of one model, for one request at a time.

    `rivals` are searches of image codecs by their names, `examples` the files that the page begins with.
    """

    def __init__(
        self, model: str, device: Device, edge: Edge, rivals: Mapping[str, Search] | None = None
    ) -> None:
        if device.codec is None:
            raise CheckpointError(f"{model} has no codec: the page needs a checkpoint of tofc")
        self.model, self.device, self.edge = model, device, edge
        self.rivals = {} if rivals is None else rivals
        self.examples = examples_for(model)

    @classmethod
    def load(cls, model: str, rivals: Mapping[str, Search] | None = None) -> Studio:
        """Both sides of a bundled name, a folder or a hub id, warmed up; CheckpointError without a codec."""
        studio = cls(model, Device.from_pretrained(model), Edge.from_pretrained(model), rivals)
        # Kernels are compiled, or read, when they first run: no visitor's figures should tell of that.
        packet = studio.device.encode(Image.linear_gradient("L"))
        studio.edge.answer(packet, "What is in this picture?", max_new_tokens=2)
        return studio

    @property
    def _side(self) -> int:
        """The pixels of a tile's side."""
        return int(self.device.base_config.vision_config.image_size)

    def options(self, is_local: bool = True) -> dict[str, Any]:
        """The model, what can be chosen with what is chosen unless one does, and what to begin with.

        Only a page on this machine (`is_local`) is told where files lie.
        """
        codec, merging = self.device.codec, self.device.config.merging
        assert codec is not None
        most = self.device.base_config.vision_config
        side = most.image_size // most.patch_size
        full = max(member.num_parameters for member in self.edge.family)
        return {
            "model": Path(self.model).name,
            "source": self.model if is_local else Path(self.model).name,
            "knows": self.device.config.knows,
            "examples": [
                {
                    "name": name,
                    "title": example.title,
                    "questions": example.questions,
                    "path": str(file) if is_local else name,
                }
                for name, (example, file) in self.examples.items()
            ],
            "questions": questions_for(self.model),
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

    def smallest(
        self, data: bytes, question: str, tokens: int, exit: str, answer: str, codec: str
    ) -> int | None:
        """The bytes of the smallest packet, or file of an image codec, that leads to this answer too.

        Packets are tried at every quality, with the tokens that go best with it; image files are seen
        uncoded, merged to `tokens`. None where nothing that is tried does; UserError for an unknown codec.
        """
        if codec not in (PACKET, *self.rivals):
            raise UserError(f"there is no codec {codec!r}; choose one of {', '.join((PACKET, *self.rivals))}")
        longest = len(self.edge.tokenizer(answer)["input_ids"]) + 2  # enough to see that it goes on
        image = open_image(data)
        if codec == PACKET:
            for packet in packets_by_size(self.device, image):
                if self.edge.answer(packet, question, exit=exit, max_new_tokens=longest).text == answer:
                    return len(packet)
            return None

        def keeps(decoded: Image.Image) -> bool:
            seen = self.device.features(decoded, tokens)
            (given,) = self.edge.answer_features(seen, question, exit=exit, max_new_tokens=longest)
            return given.text == answer

        return smallest_file(image, self._side, self.rivals[codec], keeps)

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
            "unsure": answer.is_unsure,
            "bytes": len(sent.packet),
            "packet": base64.b64encode(bytes(sent.packet)).decode(),
            "quality": sent.quality,
            "tokens": sent.received.num_tokens,
            "sections": byte_sections(sent.received, self.device.codec),
            "stages": [
                {"side": _STAGES[name][0], "name": _STAGES[name][1], "seconds": value}
                for name, value in seconds.items()
                if name in _STAGES
            ],
            "sizes": image_sizes(image, sent.as_given, self._side),
            "compared": [PACKET, *self.rivals] if len(answer.tokens) <= LONGEST_COMPARED else [],
            "picture": {"width": image.width, "height": image.height},
            "clusters": _clusters(image, sent.seen),
        }


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
