"""The rooms drawn: a floor for each level of imports, a box for each room as wide as its code is long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from eval.demo.drawing import require_matplotlib
from eval.house.rooms import Room, direct, floors
from tofc.writing import whole_file

WIDTH, FLOOR, BOX, GAP = 17.0, 1.05, 0.62, 0.18  # inches
LEAST = 1.15  # width of a box, so that its name fits
COLOURS = {"encoders": "#0f766e", "entropy": "#8a6d1d", "tofc": "#1d4ed8", "eval": "#64748b"}


def draw(rooms: Mapping[str, Room], path: Path) -> None:
    """Writes a PNG: whoever stands above imports what is below; lines that others stand for are left out."""
    figure_class, canvas, _ = require_matplotlib()
    height = floors(rooms)
    levels: defaultdict[int, list[str]] = defaultdict(list)
    for name in sorted(rooms, key=lambda name: (name.split("/")[0] == "eval", name)):
        levels[height[name]].append(name)
    widths = {name: max(LEAST, rooms[name].lines / 1100) for name in rooms}
    rows = max(levels) + 1
    figure = figure_class(figsize=(WIDTH, FLOOR * rows + 1.0), dpi=110, facecolor="white")
    canvas(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, FLOOR * rows + 1.0))
    axes.set_axis_off()
    middle: dict[str, tuple[float, float]] = {}
    for level, names in levels.items():
        left = (WIDTH - sum(widths[name] + GAP for name in names)) / 2
        for name in names:
            middle[name] = (left + widths[name] / 2, 0.4 + FLOOR * level + BOX / 2)
            left += widths[name] + GAP
    for upper, lower in sorted(direct(rooms)):
        if height[upper] == height[lower]:
            continue
        (x, y), (at, below) = middle[upper], middle[lower]
        colour = COLOURS[upper.split("/")[0]]
        axes.annotate(
            "", (at, below + BOX / 2), (x, y - BOX / 2),
            arrowprops={"arrowstyle": "->", "color": colour, "alpha": 0.35, "lw": 1.0},
        )  # fmt: skip
    for name, (x, y) in middle.items():
        colour = COLOURS[name.split("/")[0]]
        box = (x - widths[name] / 2, y - BOX / 2)
        axes.add_patch(_rectangle(box, widths[name], colour))
        axes.text(x, y + 0.09, name, ha="center", va="center", color="white", fontsize=10, weight="bold")
        size = f"{rooms[name].modules} files, {rooms[name].lines:,} lines"
        axes.text(x, y - 0.15, size, ha="center", va="center", color="white", fontsize=7)
    total = f"{sum(r.modules for r in rooms.values())} files, {sum(r.lines for r in rooms.values()):,} lines"
    title = f"The rooms: each imports what is below it ({total}; lines that others stand for are left out)"
    axes.text(WIDTH / 2, FLOOR * rows + 0.6, title, ha="center", fontsize=13, color="#1f2933")
    with whole_file(path) as draft:
        figure.savefig(draft, format="png")


def _rectangle(corner: tuple[float, float], width: float, colour: str) -> object:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(corner, width, BOX, boxstyle="round,pad=0,rounding_size=0.08", color=colour, lw=0)
