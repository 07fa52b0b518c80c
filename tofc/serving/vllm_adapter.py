"""Packets for a language model that vLLM runs: decoded and projected here, in a process without vLLM.

vLLM pins its own torch and transformers, so it lives in an environment of its own, and this process talks
to its OpenAI-compatible server (`content`) or makes tensors for its `LLM` (`image_embeds`). Written against
vLLM 0.33.0, whose LlavaOnevision takes `image_embeds` [rows, hidden size] for each picture and puts them, as
they are, where the prompt's image token stands.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from entropy import FeatureCodec
from tofc.config import CheckpointConfig, resolve
from tofc.errors import PacketError, UserError
from tofc.familial.branches import shallow_copy
from tofc.features import unpack
from tofc.hub import load_codec
from tofc.language.load import load_edge_model
from tofc.model import choose_device, choose_dtype, load_base_config, visual_embeddings
from tofc.packet import Packet


class VllmInputs:
    """Decodes and projects packets; of the language model nothing is kept.

    `model` is the language side of which projector and newline embedding are used, `config` the checkpoint's.
    vLLM 0.33.0 stacks the pictures of all requests in a step, and fails where one has another number of
    rows than the next. So all have `rows` here: a picture of K merged tokens has K + 1, the last being the
    embedding that ends a row of patches. UserError where `rows` is needed.
    """

    def __init__(
        self, model: Any, codec: FeatureCodec, config: CheckpointConfig, rows: int | None = None
    ) -> None:
        merged = config.merging.tokens
        if rows is None and not isinstance(merged, int):
            raise UserError(
                "this checkpoint merges to no fixed number of tokens, and vLLM takes pictures of one number "
                "of rows only: give rows=, the tokens of your packets and one more"
            )
        self.rows: int = int(merged) + 1 if rows is None else rows
        self._codec = codec
        # Only projector and newline embedding are used; what answers is elsewhere.
        self._model = shallow_copy(model)
        self._model.model = shallow_copy(model.model)
        self._model.model.language_model = self._model.lm_head = None

    @classmethod
    def from_pretrained(
        cls,
        src: str | Path,
        *,
        rows: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> VllmInputs:
        """Reads codec and projector of a bundled name, a folder or a hub id; one block of the language model
        passes through memory. Raises UserError where `rows` is needed, CheckpointError for what is not whole.
        """
        checkpoint, where = resolve(src), choose_device(device)
        dtype = choose_dtype(dtype, where, load_base_config(checkpoint.base))
        model = load_edge_model(checkpoint, where, dtype, num_layers=1)
        return cls(model, load_codec(checkpoint), checkpoint.config, rows)

    @torch.inference_mode()
    def image_embeds(self, packet: Packet | bytes) -> list[torch.Tensor]:
        """Embeddings [rows, hidden size] of each picture, on the CPU, as `Edge` prompts with them.

        For `LLM.generate({"prompt": ..., "multi_modal_data": {"image": image_embeds}})`, with one image token
        a picture in the prompt. Raises PacketError for a packet of another model, for one that is not whole
        and for a picture with another number of rows.
        """
        embeds = visual_embeddings(self._model, unpack(packet, self._codec, self._model.config))
        found = sorted({len(one) for one in embeds} - {self.rows})
        if found:
            raise PacketError(
                f"a picture of the packet has {found[0]} rows, vLLM gets {self.rows} here: encode it with "
                f"{self.rows - 1} tokens, or give rows= for all"
            )
        return [one.cpu() for one in embeds]

    def content(self, packet: Packet | bytes) -> list[dict[str, Any]]:
        """The parts of a chat message that stand for a packet's pictures, for vLLM's own HTTP server.

        They hold float32 in NumPy's format, which is no pickle. Errors of `image_embeds`.
        """
        return [
            {"type": "image_embeds", "image_embeds": base64.b64encode(_npy(one)).decode()}
            for one in self.image_embeds(packet)
        ]


def _npy(tensor: torch.Tensor) -> bytes:
    out = io.BytesIO()
    np.save(out, tensor.float().numpy(), allow_pickle=False)
    return out.getvalue()
