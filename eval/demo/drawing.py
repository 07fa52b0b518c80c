"""The demo's figure: every picture with its token clusters, what was asked, and how many bytes it took."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from eval.demo.measure import PictureResult, QuestionResult
from tofc.features import boundaries, tinted
from tofc.writing import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# All lengths are inches at 100 dots an inch, from the left edge and from the top: 1600 pixels wide.
DPI = 100
WIDTH, MARGIN, HEADER, NOTE_LINE = 16.0, 0.45, 1.3, 0.25
LEFT_CLUSTERS, LEFT_WORDS, LEFT_BARS = 3.25, 6.2, 11.0
PICTURE, GAP = 2.6, 0.36  # side of a picture's square, white between two rows
LINE, BETWEEN_QUESTIONS, BAR = 0.265, 0.1, 0.36
QUESTION_CHARACTERS, NOTE_CHARACTERS = 44, 170

INK, QUIET, HAIRLINE = "#1f2933", "#6b7785", "#cdd4db"
OURS, CODEC, REFERENCE = "#0f766e", "#8aa4bf", "#d3dae2"
RIGHT, WRONG = "#0f766e", "#b4432f"
TINT = 0.4


def draw(results: Sequence[PictureResult], path: Path, title: str, notes: Sequence[str]) -> None:
    """Draw all pictures of the demo into one PNG, 1600 pixels wide.

    A row for each of `results`, `title` above, and small at the foot `notes`, what the figures mean.
    `path` lies in a folder that exists.
    """
    footnotes = [line for note in notes for line in textwrap.wrap(note, NOTE_CHARACTERS)]
    rows = [max(PICTURE, _words_height(result)) + GAP for result in results]
    sheet = _Sheet(HEADER + sum(rows) + NOTE_LINE * len(footnotes) + 1.5 * GAP)
    sheet.text(MARGIN, 0.48, title, size=22, weight="bold")
    for left, heading in (
        (MARGIN, "the picture"),
        (LEFT_CLUSTERS, "what one token stands for"),
        (LEFT_WORDS, "asked and answered"),
        (LEFT_BARS, "bytes, log scale"),
    ):
        sheet.text(left, 1.02, heading, size=13, colour=QUIET)
    top, largest = HEADER, _largest_size(results)
    for result, row in zip(results, rows, strict=True):
        sheet.rule(top)
        middle = top + row / 2
        sheet.image(MARGIN, middle, result.image)
        tokens = tinted(result.image, result.assignment, result.tile, TINT)
        clusters = sheet.image(LEFT_CLUSTERS, middle, tokens)
        sheet.lines(clusters, boundaries(result.assignment, result.tile))
        _write_words(sheet, middle - _words_height(result) / 2, result)
        _draw_bars(sheet, middle, result, largest)
        top += row
    sheet.rule(top)
    for index, line in enumerate(footnotes):
        sheet.text(MARGIN, top + GAP + NOTE_LINE * index, line, size=11, colour=QUIET)
    sheet.save(path)


class _Sheet:
    """A white figure of a given height, drawn on in inches from its top left corner."""

    def __init__(self, height: float) -> None:
        from matplotlib.figure import Figure

        self.height = height
        # Without pyplot: no display is needed, and the backend that the user may have chosen stays.
        self.figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")

    def text(
        self, left: float, y: float, text: str, *, size: float, colour: str = INK, weight: str = "normal"
    ) -> None:
        # Dollar signs would start a formula.
        self.figure.text(
            left / WIDTH, 1 - y / self.height, text.replace("$", r"\$"), fontsize=size, color=colour,
            weight=weight, va="center",
        )  # fmt: skip

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        axes = self.figure.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, height / self.height))
        axes.set_axis_off()
        return axes

    def rule(self, y: float) -> None:
        self.axes(MARGIN, y - 0.01, WIDTH - 2 * MARGIN, 0.02).axhline(0, color=HAIRLINE, linewidth=1)

    def image(self, left: float, middle: float, image: Image.Image) -> Axes:
        """Show an image whole and undistorted, as large as its square allows."""
        scale = PICTURE / max(image.size)
        axes = self.axes(left, middle - image.height * scale / 2, image.width * scale, image.height * scale)
        extent = (0, image.width, image.height, 0)
        axes.imshow(np.asarray(image), extent=extent, interpolation="lanczos", aspect="auto")
        axes.set(xlim=extent[:2], ylim=extent[2:], autoscale_on=False)
        return axes

    def lines(self, axes: Axes, segments: list[list[tuple[float, float]]]) -> None:
        from matplotlib.collections import LineCollection

        axes.add_collection(
            LineCollection(segments, colors="white", linewidths=1.0, alpha=0.9, capstyle="round")
        )

    def save(self, path: Path) -> None:
        with whole_file(path) as draft:
            self.figure.savefig(draft, format="png")


def _question_lines(question: QuestionResult) -> list[str]:
    return [
        line
        for part in question.prompt.splitlines()
        for line in textwrap.wrap(part, QUESTION_CHARACTERS) or [""]
    ]


def _answer_lines(question: QuestionResult) -> list[str]:
    # The answer is the model's: it may be empty or long, and neither may break the page.
    answer = question.answer or "(no answer)"
    verdict = "\N{CHECK MARK}" if question.right else f"\N{BALLOT X} (truth: {question.truth})"
    return textwrap.wrap(
        textwrap.shorten(f"{answer}  {verdict}", 3 * QUESTION_CHARACTERS), QUESTION_CHARACTERS
    )


def _words_height(result: PictureResult) -> float:
    lines = sum(len(_question_lines(q)) + len(_answer_lines(q)) for q in result.questions)
    return LINE * (1 + lines) + BETWEEN_QUESTIONS * len(result.questions)


def _write_words(sheet: _Sheet, top: float, result: PictureResult) -> None:
    y = top + LINE / 2
    heading = f"{result.name}: {result.image.width} x {result.image.height}"
    sheet.text(LEFT_WORDS, y, heading, size=12, colour=QUIET)
    for question in result.questions:
        y += BETWEEN_QUESTIONS
        for line in _question_lines(question):
            y += LINE
            sheet.text(LEFT_WORDS, y, line, size=13.5)
        for line in _answer_lines(question):
            y += LINE
            sheet.text(
                LEFT_WORDS, y, line, size=13.5, colour=RIGHT if question.right else WRONG, weight="bold"
            )


def _bars(result: PictureResult) -> list[tuple[str, int | None, str]]:
    """Give label, bytes and colour of every bar, ours first."""
    same = "same answers" if len(result.questions) > 1 else "same answer"
    ours: list[tuple[str, int | None, str]] = [("TOFC packet", result.num_bytes, OURS)]
    codecs = [
        (f"{name}, {same}", None if point is None else point.num_bytes, CODEC)
        for name, point in result.baselines.items()
    ]
    return ours + codecs + [(label, size, REFERENCE) for label, size in result.reference_sizes.items()]


def _largest_size(results: Sequence[PictureResult]) -> int:
    return max(size for result in results for _, size, _ in _bars(result) if size is not None)


def _draw_bars(sheet: _Sheet, middle: float, result: PictureResult, largest: int) -> None:
    """Draw the sizes as bars, on a log scale that all pictures share and that starts at 100 bytes."""
    bars = _bars(result)
    labels, figures = 1.92, 0.82  # inches for the words at the left and the figures at the right
    width, tall = WIDTH - MARGIN - LEFT_BARS, BAR * len(bars)
    axes = sheet.axes(LEFT_BARS, middle - tall / 2, width, tall)
    axes.set(xlim=(0, width), ylim=(len(bars) - 0.5, -0.5))
    for index, (label, size, colour) in enumerate(bars):
        length = 0.0
        if size is not None:
            share = math.log(max(size, 100) / 100) / math.log(max(largest, 101) / 100)
            length = max(0.03, share * (width - labels - figures))
            axes.barh(index, length, left=labels, height=0.6, color=colour)
        words: dict[str, Any] = {"fontsize": 12, "va": "center", "color": QUIET if index else INK}
        words["weight"] = "normal" if index else "bold"
        axes.text(0, index, label, **words)
        axes.text(labels + length + 0.06, index, "at no quality" if size is None else f"{size:,}", **words)
