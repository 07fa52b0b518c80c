"""What a server answers with: one checkpoint, under a name of its own for each member of its family."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tofc.compiled import load_kernels
from tofc.device import Device
from tofc.edge import Edge
from tofc.errors import UserError
from tofc.features import Features
from tofc.language.batch import Batch, Generation, LeastRecentCache
from tofc.language.model import FULL, Exit
from tofc.language.prompt import Prompt
from tofc.model import visual_embeddings
from tofc.packet import Packet
from tofc.serving.errors import wrong
from tofc.tiling import TileLayout, tile_layout

_KEPT_ROWS = 8192  # embeddings of packets that may be asked about again
DEFAULT = "default"  # whatever the server's model is called

Shown = Packet | Image.Image


@dataclass(frozen=True)
class Prepared:
    """A prompt that is ready for the language model; `timing` holds the seconds that it took, by stage.

    `prefix_key` is the same for all prompts that begin with the same packets, None where pictures are none.
    """

    prompt: Prompt
    visual_tokens: int
    timing: Mapping[str, float]
    prefix_key: bytes | None = None


class ServedModels:
    """An edge with its members, and the device side where ordinary pictures are answered too.

    `members` maps model ids to exits: the checkpoint's name for the full model, which comes first,
    NAME:MEMBER for the others of its family.
    """

    def __init__(self, name: str, edge: Edge, device_side: Device | None) -> None:
        self.name, self.edge, self.device_side = name, edge, device_side
        self.created = int(time.time())
        self._projected: LeastRecentCache[tuple[list[torch.Tensor], int]] = LeastRecentCache(_KEPT_ROWS)
        exits = [FULL, *(exit for exit in edge.family.names if exit != FULL)]
        self.members: dict[str, Exit] = {
            name if exit == FULL else f"{name}:{exit}": edge.family.exit(exit) for exit in exits
        }

    @classmethod
    def load(
        cls,
        src: str | Path,
        *,
        images: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> ServedModels:
        """Reads a bundled name, a folder or a hub id; with `images` the vision tower too."""
        edge = Edge.from_pretrained(src, device=device, dtype=dtype)
        tower = Device.from_pretrained(src, device=device, dtype=dtype) if images else None
        return cls(Path(src).name, edge, tower)

    def warm_up(self) -> None:
        """One short answer of each member: what is compiled or allocated on first use is so now."""
        turns = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        codec = self.edge.codec
        if codec is not None:
            load_kernels("entropy.kernels", "decode_tokens")
            codec.decode(codec.encode(np.zeros((4, codec.width), np.float32), codec.qualities[0]))
        if self.device_side is not None:
            self.device_side.features(Image.new("RGB", (32, 32)), "all")
        for name in self.members:
            batch = self.batch(name)
            batch.join([Generation(self.prepare(turns, [], 2).prompt, max_new_tokens=2)])
            batch.run()

    def resolve(self, asked: str) -> str | None:
        """The id of a model that a client asked for: "default" stands for the name of what is served."""
        name, colon, exit = asked.partition(":")
        found = f"{self.name}{colon}{exit}" if name == DEFAULT else asked
        return found if found in self.members else None

    def batch(self, name: str, kept_positions: int = 0) -> Batch:
        """An empty batch of one of the members."""
        return Batch(self.edge.family.language, self.members[name], self.edge.ends, kept_positions)

    def layouts(self, seen: Shown, num_ordinary: int) -> list[TileLayout]:
        """The tiles of each picture, known before anything is decoded.

        `num_ordinary` pictures of the request are no packets: several share the stock model's padding.
        """
        if isinstance(seen, Packet):
            return [tile_layout(size, seen.tiling, self.edge.model.config) for size in seen.image_sizes]
        if self.device_side is None:
            raise wrong(
                "this server answers about packets alone (data:application/vnd.tofc;base64,...); encode the "
                "picture first, with `tofc encode` or tofc.Device",
                "messages",
            )
        tiling = self.device_side.tiling_of(num_ordinary)
        return [tile_layout((seen.height, seen.width), tiling, self.device_side.base_config)]

    @torch.inference_mode()
    def prepare(self, turns: Sequence[Mapping[str, Any]], seen: Sequence[Shown], new_tokens: int) -> Prepared:
        """Decodes packets, runs the tower on ordinary pictures, projects, and renders the turns.

        Raises UserError or ApiError for what the client got wrong.
        """
        embeddings, visual_tokens, timing = self._embeddings(seen)
        try:
            prompt = Prompt.of_turns(
                self.edge.tokenizer, self.edge.template, self.edge.model.config, turns, embeddings
            )
        except UserError as error:
            raise wrong(str(error), "messages") from error
        config: Any = self.edge.model.config
        room: int = config.text_config.max_position_embeddings
        if prompt.length + new_tokens > room:
            raise wrong(
                f"{prompt.length} tokens of prompt and {new_tokens} of answer exceed the model's {room}: "
                "send fewer visual tokens or less text, or ask for fewer tokens",
                "messages",
                "context_length_exceeded",
            )
        return Prepared(prompt, visual_tokens, timing, _prefix_key(seen, prompt))

    def _embeddings(self, seen: Sequence[Shown]) -> tuple[list[torch.Tensor], int, dict[str, float]]:
        """Embeddings of each picture, their visual tokens, and the seconds that it took; packets are kept."""
        begin = time.perf_counter()
        key = _packets_key(seen)
        kept = self._projected.get(key)
        if kept is not None:
            return *kept, {"decode": time.perf_counter() - begin, "project": 0.0}
        pictures = self._features(seen)
        middle = time.perf_counter()
        embeddings = visual_embeddings(self.edge.model, pictures)
        visual_tokens = sum(picture.tokens.shape[0] for picture in pictures)
        if key is not None:
            self._projected.put(key, (embeddings, visual_tokens), sum(map(len, embeddings)))
        timing = {"decode": middle - begin, "project": time.perf_counter() - middle}
        return embeddings, visual_tokens, timing

    def _features(self, seen: Sequence[Shown]) -> list[Features]:
        ordinary = [one for one in seen if not isinstance(one, Packet)]
        found: list[Features] = []
        if ordinary and self.device_side is not None:
            most = max(one.width * one.height for one in ordinary)
            found = self.device_side.features_of(ordinary, "all", max_pixels=most)
        rest = iter(found)
        out: list[Features] = []
        for one in seen:
            out += self.edge.decode_features(one) if isinstance(one, Packet) else [next(rest)]
        return out


def _packets_key(seen: Sequence[Shown]) -> bytes | None:
    """What tells lists of packets apart; None where there are ordinary pictures, or none at all."""
    packets = [bytes(one) for one in seen if isinstance(one, Packet)]
    if not packets or len(packets) < len(seen):
        return None
    return b"".join(hashlib.sha256(packet).digest() for packet in packets)


def _prefix_key(seen: Sequence[Shown], prompt: Prompt) -> bytes | None:
    """What tells the beginnings of prompts apart: their packets, and the text before and between them."""
    packets = _packets_key(seen)
    if packets is None:
        return None
    return hashlib.sha256(prompt.ids[: prompt.num_shared].numpy().tobytes() + packets).digest()
