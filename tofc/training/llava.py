"""Instruction data in LLaVA-1.5's published form (`llava_v1_5_mix665k.json`) as a training corpus.

A JSON array, or JSON Lines, of {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]};
rows without "image" are text alone. One pass over the file keeps 16 bytes a row; rows are read again, and
pictures opened, when they are asked for.
"""

from __future__ import annotations

import logging
import os
import zlib
from array import array
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from tofc.errors import ImageError, UserError
from tofc.images import MAX_PIXELS, open_image
from tofc.training.data import Turn, resize
from tofc.training.json_rows import JsonRow, read_row, scan_rows
from tofc.writing import whole_file

SPLITS = ("train", "validation")
PLACEHOLDER = "<image>"  # where the data's text speaks of the picture; the chat template puts it in first
SHOWN = 5  # names in a message; all are in the report

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LlavaExample:
    """One conversation: `pixels` uint8 [3, S, S] of its picture, or None; `image` is the picture's name."""

    pixels: np.ndarray | None
    turns: tuple[Turn, ...]
    image: str | None


class UnusableRow(Exception):
    """A row that is well formed and still nothing to learn from; the message says why."""


class LlavaCorpus:
    """The conversations of `path`, with the pictures of the folder `images` at `size` x `size` pixels.

    `validation` in [0, 1) is the share of pictures (of rows, where there is only text) that is kept from
    training; it depends on names alone, so all conversations about a picture are on one side. Rows that
    cannot be used, because their picture is missing or their turns do not alternate, are skipped and
    counted in a warning; `report`, a file, gets all of them. `max_pixels` is the largest picture that is
    opened. Raises UserError with row and byte where a row is not of the form above.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path,
        size: int = 384,
        validation: float = 0.002,
        report: str | Path | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not 0.0 <= validation < 1.0:
            raise UserError(f"validation is {validation}; give a share of at least 0 and below 1")
        self.path, self.images, self.size, self.max_pixels = Path(path), Path(images), size, max_pixels
        if not self.images.is_dir():
            raise UserError(
                f"images {self.images} is no folder; give the one that the rows' names start from"
            )
        self._order: tuple[tuple[str, int, int], np.ndarray] | None = None
        self._told: set[str] = set()
        self._places = self._index(validation, None if report is None else Path(report))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_order": None}  # a loader process draws its own

    # -- one pass over the file --

    def _index(self, validation: float, report: Path | None) -> dict[str, np.ndarray]:
        """Start and length of the usable rows of each split, int64 [n, 2]."""
        places = {split: array("q") for split in SPLITS}
        with _Skipped(report) as skipped:
            for row in scan_rows(self.path):
                try:
                    image, _ = _parse(row.value, f"{self.path}: row {row.number}, byte {row.start}")
                    # Path would keep a place for every name that it ever saw.
                    if image is not None and not os.path.isfile(os.path.join(self.images, image)):
                        raise UnusableRow(f"missing image {image}")
                except UnusableRow as reason:
                    skipped.add(row, str(reason))
                    continue
                key = f"row {row.number}" if image is None else image
                drawn = zlib.crc32(key.encode()) / 2**32
                places["validation" if drawn < validation else "train"].extend((row.start, row.length))
        skipped.tell(self.path)
        if not places["train"]:
            raise UserError(
                f"{self.path} has no row to train on ({skipped.total} were skipped{skipped.examples()}): "
                f"check that the names in it start from {self.images}"
            )
        return {split: np.frombuffer(values, np.int64).reshape(-1, 2) for split, values in places.items()}

    # -- examples --

    def num_pictures(self, split: str) -> int:
        """Conversations in an epoch of `split`, with picture and without."""
        return len(self._rows(split))

    def picture(self, split: str, index: int, seed: int) -> LlavaExample:
        """Conversation `index` of `split`: each epoch is in an order of its own, drawn from `seed`.

        A picture that cannot be read is named in a warning, and the next conversation in that order that can
        be read takes its place.
        """
        count = self.num_pictures(split)
        if not count:
            raise UserError(f"the split {split} is empty: raise validation, the share that goes to it")
        order = self._order_of(split, index // count, seed)
        for step in range(count):
            start, length = self._rows(split)[order[(index + step) % count]]
            image, turns = _parse(self._read(int(start), int(length)), f"{self.path}: byte {start}")
            if image is None:
                return LlavaExample(None, turns, None)
            try:
                opened = open_image(self.images / image, self.max_pixels)
            except ImageError as error:
                self._tell(image, error)
                continue
            return LlavaExample(resize(np.array(opened), self.size), turns, image)
        raise UserError(f"not one picture of {split} can be read; check the folder {self.images}")

    def _rows(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
        return self._places[split]

    def _order_of(self, split: str, epoch: int, seed: int) -> np.ndarray:
        key = (split, epoch, seed)
        if self._order is None or self._order[0] != key:
            rng = np.random.default_rng([seed, SPLITS.index(split), epoch])
            self._order = (key, rng.permutation(len(self._rows(split))))
        return self._order[1]

    def _read(self, start: int, length: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            return read_row(file, start, length)

    def _tell(self, image: str, error: ImageError) -> None:
        if image not in self._told:
            self._told.add(image)
            _log.warning("unreadable image %s, another row takes its place: %s", image, error)


def _parse(row: Mapping[str, Any], where: str) -> tuple[str | None, tuple[Turn, ...]]:
    """Name of the picture, where there is one, and turns of a row."""
    image = row.get("image") or None
    if image is not None and not isinstance(image, str):
        raise UserError(f'{where}: "image" is {_shown(image)}; give one name below the images folder')
    return image, turns_of(row.get("conversations"), image, where)


def turns_of(conversation: Any, image: str | None, where: str) -> tuple[Turn, ...]:
    """The turns of a row's "conversations", one conversation; `where` names the row in errors.

    An answer that stands before the first question and a question without answer at the end are left out,
    and a conversation ends before an empty answer. Raises UnusableRow where nothing remains or two turns of
    one speaker follow each other, UserError where the form is wrong.
    """
    if not isinstance(conversation, list):
        raise UserError(
            f'{where}: "conversations" is {_shown(conversation)}; give a list of '
            '{"from": "human" or "gpt", "value": "..."}'
        )
    said = [_said(entry, place, where) for place, entry in enumerate(conversation)]
    if said and said[0][0] == "gpt":
        del said[0]
    if len(said) % 2:
        del said[-1]
    if [speaker for speaker, _ in said] != ["human", "gpt"] * (len(said) // 2):
        raise UnusableRow("two turns of one speaker follow each other")
    category = "text" if image is None else image.partition("/")[0]
    turns: list[Turn] = []
    for (_, asked), (_, answer) in zip(said[::2], said[1::2], strict=True):
        if not answer:
            break
        if PLACEHOLDER in answer or (image is None and PLACEHOLDER in asked):
            raise UnusableRow(f"{PLACEHOLDER} stands where there is no picture")
        prompt = asked.replace(PLACEHOLDER, "").strip()
        turns.append(Turn(prompt, answer, category, continues=bool(turns)))
    if not turns:
        raise UnusableRow("no answer")
    return tuple(turns)


def _said(entry: Any, place: int, where: str) -> tuple[str, str]:
    """Who said what, without the white space around it."""
    speaker = entry.get("from") if isinstance(entry, dict) else None
    value = entry.get("value") if isinstance(entry, dict) else None
    if speaker not in ("human", "gpt") or not isinstance(value, str):
        raise UserError(
            f'{where}: turn {place} is {_shown(entry)}; give {{"from": "human" or "gpt", "value": "..."}}'
        )
    return speaker, value.strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Skipped:
    """Counts what is skipped, keeps the first of it, and writes all of it into a file."""

    def __init__(self, report: Path | None) -> None:
        self.report, self.reasons, self.first = report, Counter[str](), list[str]()
        self._file: IO[str] | None = None
        self._opened = ExitStack()

    @property
    def total(self) -> int:
        return sum(self.reasons.values())

    def add(self, row: JsonRow, reason: str) -> None:
        kind = "missing images" if reason.startswith("missing image ") else reason
        self.reasons[kind] += 1
        if len(self.first) < SHOWN:
            self.first.append(f"row {row.number}: {reason}")
        if self._file is not None:
            self._file.write(f"{row.number}\t{row.start}\t{reason}\n")

    def examples(self) -> str:
        return f"; the first: {'; '.join(self.first)}" if self.first else ""

    def __enter__(self) -> _Skipped:
        if self.report is not None:
            # Several processes write the same report: each its own draft, and the last move stands.
            draft = self._opened.enter_context(whole_file(self.report))
            self._file = self._opened.enter_context(draft.open("w", encoding="utf-8"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def tell(self, path: Path) -> None:
        if not self.total:
            return
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.reasons.most_common())
        rest = "set report to have all in a file" if self.report is None else f"all in {self.report}"
        _log.warning("%s: %d rows skipped (%s)%s; %s", path, self.total, kinds, self.examples(), rest)
