"""What others published, to be drawn and told beside ours: numbers are theirs, and labelled as theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tofc.config import load_yaml
from tofc.errors import ConfigError


@dataclass(frozen=True)
class PublishedCurve:
    """One system of one publication on one data set.

    `points` are (size, score): sizes in `unit`, which is bits a pixel or bytes, scores as they were published
    of `form`, a form of question of a sweep.
    """

    label: str
    data: str
    form: str
    points: tuple[tuple[float, float], ...]
    unit: Literal["bpp", "bytes"] = "bpp"


@dataclass(frozen=True)
class PublishedSaving:
    """What the paper says that TOFC saves against a system on a data set, as a share, lowest to highest."""

    data: str
    system: str
    saves: tuple[float, float]


@dataclass(frozen=True)
class Published:
    """A file of published figures, with their sources."""

    sources: tuple[str, ...]
    curves: tuple[PublishedCurve, ...]
    savings: tuple[PublishedSaving, ...]


def published(data: str) -> Published:
    """What `configs/published.yaml` has about a data set; ConfigError where that is nothing."""
    whole = load_yaml("published", Published)
    curves = tuple(one for one in whole.curves if one.data == data)
    savings = tuple(one for one in whole.savings if one.data == data)
    if not curves and not savings:
        known = sorted({one.data for one in whole.curves} | {one.data for one in whole.savings})
        raise ConfigError(f"beside is {data!r}; there are published figures of {', '.join(known)}")
    return Published(whole.sources, curves, savings)
