"""What a data set offers to a sweep: pictures with questions that can be scored."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from tofc.errors import ConfigError


@dataclass(frozen=True)
class SweepData:
    """Where pictures and questions come from: `source` is "module:class", `options` its keyword arguments."""

    source: str = "eval.rate.scenes:ScenesData"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredQuestion:
    """One question. `score` gives (right, of) of an answer: 0 or 1 of 1, but more where facts are counted."""

    form: str
    category: str
    prompt: str
    truth: str
    max_new_tokens: int
    score: Callable[[str], tuple[int, int]]


@dataclass(frozen=True)
class AskedPicture:
    """One picture, by a name that finds it again, with what is asked about it."""

    name: str
    image: Image.Image
    questions: tuple[ScoredQuestion, ...]


class Data(Protocol):
    """A data set; example `index` is the same on every call and machine."""

    name: str

    def __len__(self) -> int:
        """Pictures at most."""

    def __getitem__(self, index: int) -> AskedPicture:
        """Example `index`, from 0."""


def load_data(config: SweepData) -> Data:
    """Builds the data set that a config names; ConfigError where there is none of that name."""
    module_name, _, class_name = config.source.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)(**config.options)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"data.source {config.source!r} with options {config.options} gives no data set ({error}); "
            "write 'module:class', e.g. 'eval.rate.scenes:ScenesData'"
        ) from error
