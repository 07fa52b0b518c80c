"""Text without pictures: plain language models, separate or of one family, as tiers of `speculate`.

small, large = TextModel.from_pretrained("models/1.5B"), TextModel.from_pretrained("models/7B")
decoded = speculate(small, b"", "What is 7 times 8?", [(small, "full"), (large, "full")])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tofc.errors import UserError
from tofc.familial.index import INDEX
from tofc.familial.store import BASE, FAMILY, load_family
from tofc.familial.views import Family
from tofc.hub import checkpoint_faults
from tofc.language.load import load_causal
from tofc.language.model import FULL
from tofc.language.prompt import Prompt, end_ids


class TextModel:
    """A plain causal language model, or a family of one (such as `tofc familial import` writes).

    It stands where an edge stands in `speculate`: what it is asked about is the text alone.
    """

    codec = None

    def __init__(self, family: Family, tokenizer: Any) -> None:
        self.family, self.tokenizer = family, tokenizer
        self.ends = end_ids(tokenizer, family.main)

    @classmethod
    def from_pretrained(
        cls, source: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> TextModel:
        """A folder or hub id of a causal language model, or a folder with `base/` and `family/`.

        CheckpointError where it is neither, or not whole.
        """
        is_family = (Path(source) / FAMILY / INDEX).is_file()
        base = Path(source) / BASE if is_family else source
        family = (
            load_family(source, FULL, dtype) if is_family else Family(load_causal(base, None, device, dtype))
        )
        with checkpoint_faults():
            return cls(family, AutoTokenizer.from_pretrained(base))

    def prompt(self, seen: Any, question: str) -> Prompt:
        """The text in the model's chat template, or as it stands where the tokenizer has none."""
        if not question.strip():
            raise UserError("the prompt is empty; write something")
        text = question
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": question}]
            text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return Prompt(torch.tensor(self.tokenizer(text)["input_ids"]), (), {})
