"""What may stand in `--model_args`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.familial.members import direct_edge
from tofc.config import from_mapping
from tofc.device import Device
from tofc.edge import Edge
from tofc.errors import UserError
from tofc.familial import FULL


@dataclass(frozen=True)
class Options:
    """The model's options; what is left out is the checkpoint's own.

    `pretrained` is a bundled name, a folder or a hub id; `quality` 1..8, `tokens` (a number, or "all") and
    `max_bytes` are those of `Device.encode`; `exit` is the member of the language model's family that
    answers, "auto" for one chosen question by question, "direct5" for norm and head on the state after five
    blocks. With `codec` false the merged features travel as plain float16. `device` is a GPU where there is
    one, else the CPU; `batch_size` pictures and as many questions are in the language model at a time.
    `rates` is the folder for the bytes of each request, if not the one of the scores.
    """

    pretrained: str
    quality: int | None = None
    tokens: int | str | None = None
    max_bytes: int | None = None
    exit: str = "full"
    codec: bool = True
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 1
    rates: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; give at least 1")
        if not self.codec and (self.quality is not None or self.max_bytes is not None):
            raise UserError(
                "codec=false sends features uncoded, so quality and max_bytes say nothing; leave them out"
            )
        if None not in (self.quality, self.tokens, self.max_bytes):
            raise UserError("quality and tokens leave max_bytes nothing to choose; give two of the three")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Options:
        """Options as lmms-eval hands them over; ConfigError for an unknown one lists the valid ones."""
        values = {key: value for key, value in values.items() if value is not None}
        batch_size = values.get("batch_size", 1)
        if isinstance(batch_size, str):  # as `--batch_size` arrives
            if not batch_size.isdigit():
                raise UserError(f"batch_size is {batch_size!r}; give a number, it is not searched for")
            values["batch_size"] = int(batch_size)
        return from_mapping(cls, values, "--model_args")

    def load(self) -> tuple[Device, Edge]:
        """Both sides of the checkpoint; errors of their `from_pretrained`, and where the codec is missing."""
        where = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        device_side = Device.from_pretrained(self.pretrained, device=where, dtype=self.dtype)
        if self.codec and device_side.codec is None:
            raise UserError(
                f"{self.pretrained} is a plain LLaVA-OneVision model without codec: add codec=false to "
                "--model_args to send its features uncoded, or name a checkpoint of tofc"
            )
        direct = re.fullmatch(r"direct(\d+)", self.exit)
        exit = FULL if direct else self.exit
        edge = Edge.from_pretrained(self.pretrained, exit, device=where, dtype=self.dtype)
        return device_side, direct_edge(edge, int(direct[1])) if direct else edge

    def rates_folder(self, output_path: str | None) -> Path | None:
        """The folder for the rates: the one named, else that of lmms-eval's results, None without either."""
        from lmms_eval.utils import sanitize_model_name

        if self.rates is not None:
            return Path(self.rates)
        return None if output_path is None else Path(output_path, sanitize_model_name(self.pretrained))
