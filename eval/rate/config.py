"""What a sweep's YAML file says: a checkpoint, a data set, and the grid of every system."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from eval.asking.answering import SweepData
from eval.baselines import Jpeg, WebP
from eval.lab.rows import blocks
from eval.rate.points import TOKENS_ALL, RatePoint, Tokens
from eval.rate.senders import (
    IMAGE_CODECS,
    FeatureSender,
    Float16,
    GreyPicture,
    Int8Zstd,
    PictureSender,
    Sender,
    TofcSender,
)
from tofc.config import QUALITIES, TILINGS
from tofc.errors import ConfigError
from tofc.familial import FULL


@dataclass(frozen=True)
class TofcGrid:
    """Every `quality` with every number of `tokens`, answered by every member of the family in `exit`."""

    quality: tuple[int, ...] = tuple(QUALITIES)
    tokens: tuple[Tokens, ...] = (64,)
    exit: tuple[str, ...] = (FULL,)


@dataclass(frozen=True)
class Int8Grid:
    """Every number of `levels` (odd, 3 to 255) with every number of `tokens`."""

    levels: tuple[int, ...] = (255,)
    tokens: tuple[Tokens, ...] = (TOKENS_ALL,)

    def __post_init__(self) -> None:
        if not all(3 <= levels <= 255 and levels % 2 for levels in self.levels):
            raise ConfigError(f"int8.levels are {self.levels}; give odd numbers from 3 to 255")


@dataclass(frozen=True)
class GreyGrid:
    """Every `quality` of the image codec with every number of `tokens`."""

    quality: tuple[int, ...]
    tokens: tuple[Tokens, ...] = (64,)


@dataclass(frozen=True)
class PictureGrid:
    """Every `quality` at every `scale` (share of the sides, above 0 up to 1) and `chroma` subsampling.

    The features of the decoded files are merged to each number of `tokens`, else to the sweep's
    `baseline_tokens`. `tiling`: ways to cut the decoded picture, "anyres" (the stock tiles) or "base" (one
    tile); the checkpoint's own where left out.
    """

    quality: tuple[int, ...]
    scale: tuple[float, ...] = (1.0,)
    chroma: tuple[str, ...] = ()
    tokens: tuple[Tokens, ...] = ()
    tiling: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 < scale <= 1 for scale in self.scale):
            raise ConfigError(f"scale is {self.scale}; give shares of a side, above 0 up to 1")
        if not set(self.tiling) <= set(TILINGS):
            raise ConfigError(f"tiling is {list(self.tiling)}; choose from {', '.join(TILINGS)}")


@dataclass(frozen=True)
class Systems:
    """The grids of each system, which add up; a system that is left out does not take part."""

    tofc: tuple[TofcGrid, ...] = ()
    uncoded: tuple[Tokens, ...] = ()
    int8: Int8Grid | None = None
    merged_jpeg: GreyGrid | None = None
    merged_webp: GreyGrid | None = None
    jpeg: tuple[PictureGrid, ...] = ()
    webp: tuple[PictureGrid, ...] = ()
    avif: tuple[PictureGrid, ...] = ()
    jpegxl: tuple[PictureGrid, ...] = ()


@dataclass(frozen=True)
class RateConfig:
    """A sweep. Accuracies are compared with that of the unmerged, uncoded features (system "raw").

    `limit` is the number of pictures, `baseline_tokens` what the features of decoded pictures are merged to:
    each is a point of its own, and with `merged_apart` the merged ones are curves of their own, as in the
    paper's figure 4. `headline` is the form of question that tables and savings are about; `score` says what
    is counted: "accuracy"; "mme", which is accuracy and accuracy+ summed over categories; "circular", which
    is the share of pictures with no wrong answer (MMBench). `beside` names a data set of which
    `configs/published.yaml` has others' figures, to be drawn beside. Of `resamples` bootstrap samples of the
    pictures, drawn with `seed`, come all intervals. A killed sweep loses the work on at most
    `pictures_at_once` pictures; `batch_size` sequences are in the language model at a time.
    """

    name: str
    checkpoint: str
    systems: Systems
    data: SweepData = field(default_factory=SweepData)
    limit: int = 500
    baseline_tokens: tuple[Tokens, ...] = (TOKENS_ALL,)
    merged_apart: bool = False
    headline: str = "yes_no"
    score: Literal["accuracy", "mme", "circular"] = "accuracy"
    beside: str | None = None
    resamples: int = 1000
    seed: int = 0
    pictures_at_once: int = 32
    batch_size: int = 16
    device: str = "cpu"
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "resamples", "pictures_at_once", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1")
        points = [point for sender in self.senders() for point in sender.points]
        if twice := sorted({p.name for p in points if points.count(p) > 1}):
            raise ConfigError(f"points that stand twice in the grids of one system: {'; '.join(twice)}")

    def blocks(self) -> list[range]:
        """The pictures that are worked on at a time."""
        return blocks(self.limit, self.pictures_at_once)

    def senders(self) -> list[Sender]:
        """Everything that is sent, the reference first."""
        systems = self.systems
        senders: list[Sender] = [FeatureSender(RatePoint("raw"), Float16(), TOKENS_ALL)]
        for tokens in systems.uncoded:
            senders.append(FeatureSender(RatePoint("uncoded", (("tokens", tokens),)), Float16(), tokens))
        for grid in systems.tofc:
            senders += [TofcSender(q, k, e) for e in grid.exit for k in grid.tokens for q in grid.quality]
        if systems.int8 is not None:
            for tokens in systems.int8.tokens:
                for levels in systems.int8.levels:
                    point = RatePoint("int8", (("levels", levels), ("tokens", tokens)))
                    senders.append(FeatureSender(point, Int8Zstd(levels), tokens))
        for name, grey, codec in (
            ("merged_jpeg", systems.merged_jpeg, Jpeg()),
            ("merged_webp", systems.merged_webp, WebP()),
        ):
            for tokens in grey.tokens if grey is not None else ():
                for quality in grey.quality if grey is not None else ():
                    point = RatePoint(name, (("quality", quality), ("tokens", tokens)))
                    senders.append(FeatureSender(point, GreyPicture(codec, quality), tokens))
        for name in IMAGE_CODECS:
            senders += self._picture_senders(name, getattr(systems, name))
        return senders

    def _picture_senders(self, system: str, grids: tuple[PictureGrid, ...]) -> list[Sender]:
        known = IMAGE_CODECS[system]
        senders: list[Sender] = []
        for grid in grids:
            for chroma in grid.chroma or tuple(known)[:1]:
                if chroma not in known:
                    raise ConfigError(f"{system}.chroma is {chroma!r}; choose from {', '.join(known)}")
                senders += [
                    PictureSender(system, scale, chroma, quality, grid.tokens or self.baseline_tokens, tiling)
                    for tiling in grid.tiling or (None,)
                    for scale in grid.scale
                    for quality in grid.quality
                ]
        return senders
