"""The bytes of each request, beside lmms-eval's scores."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from lmms_eval.utils import get_datetime_str

from tofc.errors import UserError
from tofc.writing import write_json, write_whole


@dataclass(frozen=True)
class Sent:
    """What one request cost.

    `bytes` are those of the whole packet, with every header; of uncoded features, two for each value.
    `tokens` are the visual tokens of all its pictures, `quality` is None without codec, `answer` is what was
    said. A request counts as if its pictures were sent for it alone.
    """

    task: str
    doc_id: int
    pictures: int
    bytes: int
    tokens: int
    quality: int | None
    answer_tokens: int
    answer: str = ""


def gather(sent: Sequence[Sent]) -> list[Sent]:
    """The requests of all processes, by task and document; the same in each process."""
    parts: list[Any] = [list(sent)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, list(sent))
    return sorted((one for part in parts for one in part), key=lambda one: (one.task, one.doc_id))


def summary(sent: Sequence[Sent]) -> dict[str, dict[str, float]]:
    """By task, and for all: requests, mean and percentiles of their bytes, mean of their visual tokens.

    Percentiles lie between two requests where need be. Raises UserError where no request was answered.
    """
    if not sent:
        raise UserError("no request was answered by the model, so there is no rate to report")
    tasks = sorted({one.task for one in sent})
    groups = {task: [one for one in sent if one.task == task] for task in tasks}
    return {name: _statistics(some) for name, some in {**groups, "all": list(sent)}.items()}


def _statistics(sent: Sequence[Sent]) -> dict[str, float]:
    sizes = [one.bytes for one in sent]
    return {
        "requests": len(sent),
        "bytes_mean": float(np.mean(sizes)),
        "bytes_p50": float(np.percentile(sizes, 50)),
        "bytes_p95": float(np.percentile(sizes, 95)),
        "tokens_mean": float(np.mean([one.tokens for one in sent])),
    }


def write(folder: Path, sent: Sequence[Sent], options: dict[str, Any]) -> Path:
    """Writes `..._rates.jsonl`, a line for each request, and `..._rates.json`, which sums them up.

    Returns the path of the first. Names begin with the end of the run, by the clock that dates lmms-eval's
    own files, and the process; an earlier run's files are never written over.
    """
    lines = folder / f"{get_datetime_str()}_{os.getpid()}_rates.jsonl"
    write_whole(lines, "".join(json.dumps(asdict(one)) + "\n" for one in sent))
    whole = {"options": options, "rates": summary(sent), "requests": lines.name}
    write_json(lines.with_suffix(".json"), whole)
    return lines
