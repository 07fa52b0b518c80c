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
from transformers import AutoTokenizer

from tofc.adapters import LANGUAGE_SIDE, add_adapters
from tofc.config import resolve
from tofc.edge import Edge
from tofc.errors import PacketError, UserError
from tofc.model import (
    block_number,
    choose_device,
    choose_dtype,
    load_base_config,
    load_codec,
    load_language_side,
    visual_embeddings,
)
from tofc.packet import Packet
from tofc.prompt import chat_template


class VllmInputs:
    """Decodes and projects packets; of the language model it keeps nothing.

    vLLM 0.33.0 stacks the pictures of all requests in a step, and fails where one has another number of
    rows than the next. So all have `rows` here: a picture of K merged tokens has K + 1, the last being the
    embedding that ends a row of patches.
    """

    def __init__(self, edge: Edge, rows: int | None = None) -> None:
        merged = edge.config.merging.tokens
        if rows is None and not isinstance(merged, int):
            raise UserError(
                "this checkpoint merges to no fixed number of tokens, and vLLM takes pictures of one number "
                "of rows only: give rows=, the tokens of your packets and one more"
            )
        self.rows: int = int(merged) + 1 if rows is None else rows
        self._edge = edge
        # Only projector and newline embedding are used; what answers is elsewhere.
        edge.model.model.language_model = None
        edge.model.lm_head = None

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
        base, config = checkpoint.base, load_base_config(checkpoint.base)
        model = load_language_side(base, config, where, choose_dtype(dtype, where, config), num_layers=1)
        if checkpoint.adapters:
            add_adapters(
                model, checkpoint.adapters, LANGUAGE_SIDE, wanted=lambda name: block_number(name) < 1
            )
        tokenizer = AutoTokenizer.from_pretrained(base)
        template = chat_template(base, tokenizer)
        return cls(Edge(model, tokenizer, template, checkpoint.config, load_codec(checkpoint)), rows)

    @torch.inference_mode()
    def image_embeds(self, packet: Packet | bytes) -> list[torch.Tensor]:
        """Embeddings [rows, hidden size] of each picture, on the CPU, as `Edge` prompts with them.

        For `LLM.generate({"prompt": ..., "multi_modal_data": {"image": image_embeds}})`, with one image token
        a picture in the prompt. Raises PacketError for a packet of another model, for one that is not whole
        and for a picture with another number of rows.
        """
        embeds = visual_embeddings(self._edge.model, self._edge.decode_features(packet))
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
