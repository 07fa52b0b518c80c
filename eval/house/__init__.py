"""The rooms of a source tree, and the tree drawn: a folder of modules each, its size and what it imports.

A floor for each level of imports, a box for each room as wide as its code is long.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tofc.errors import UserError
from tofc.writing import whole_file

PACKAGES = ("encoders", "entropy", "tofc", "eval")


@dataclass
class Room:
    """A folder: its modules and lines, and the other rooms that its modules import when they are imported."""

    modules: int = 0
    lines: int = 0
    imports: set[str] = field(default_factory=set)


def read_rooms(root: Path) -> dict[str, Room]:
    """The rooms below `root` by their paths; UserError where there are none."""
    files = [path for name in PACKAGES for path in sorted((root / name).rglob("*.py"))]
    if not files:
        raise UserError(f"{root} has none of the folders {', '.join(PACKAGES)}: give a source tree")
    folders = {"/".join(path.relative_to(root).parts[:2]) for path in files}
    rooms: dict[str, Room] = {}
    for path in files:
        name = _room(path.relative_to(root).with_suffix("").parts, folders)
        text = path.read_text(encoding="utf-8")
        room = rooms.setdefault(name, Room())
        room.modules += 1
        room.lines += len(text.splitlines())
        if path.stem != "__main__":  # starts what stands above it
            room.imports |= {_room(tuple(module.split(".")), folders) for module in _imported(text)} - {name}
    return rooms


def floors(rooms: Mapping[str, Room]) -> dict[str, int]:
    """The floor of each room: above all that it imports; 0 for what imports nothing.

    Rooms that import each other (folders may, where their modules do not) stand on one floor.
    """
    below = _below(rooms)
    height = dict.fromkeys(rooms, 0)
    for _ in rooms:
        for name in rooms:
            peers = {name, *(other for other in below[name] if name in below[other])}
            lower = below[name] - peers
            floor = max([height[name], *(1 + height[other] for other in lower)])
            height |= dict.fromkeys(peers, floor)
    return height


def direct(rooms: Mapping[str, Room]) -> set[tuple[str, str]]:
    """Imports that no way over a third room stands for: enough to see who rests on whom."""
    below = _below(rooms)
    return {
        (name, other)
        for name, room in rooms.items()
        for other in room.imports & rooms.keys()
        if not any(
            other in below[third] and name not in below[third]
            for third in room.imports & rooms.keys() - {other}
        )
    }


def _below(rooms: Mapping[str, Room]) -> dict[str, set[str]]:
    """What each room imports, itself or through others."""
    below = {name: room.imports & rooms.keys() for name, room in rooms.items()}
    for middle in rooms:
        for name in rooms:
            if middle in below[name]:
                below[name] |= below[middle]
    return below


def _room(parts: tuple[str, ...], folders: set[str]) -> str:
    """A package's folder of modules, or the package itself for what lies flat in it."""
    inside = parts[0] in ("tofc", "eval") and len(parts) > 1 and "/".join(parts[:2]) in folders
    return "/".join(parts[:2]) if inside else parts[0]


def _imported(text: str) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


WIDTH, FLOOR, BOX, GAP = 17.0, 1.05, 0.62, 0.18  # inches
LEAST = 1.15  # width of a box, so that its name fits
COLOURS = {"encoders": "#0f766e", "entropy": "#8a6d1d", "tofc": "#1d4ed8", "eval": "#64748b"}


def draw(rooms: Mapping[str, Room], path: Path) -> None:
    """Writes a PNG: whoever stands above imports what is below; lines that others stand for are left out."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    height = floors(rooms)
    levels: defaultdict[int, list[str]] = defaultdict(list)
    for name in sorted(rooms, key=lambda name: (name.split("/")[0] == "eval", name)):
        levels[height[name]].append(name)
    widths = {name: max(LEAST, rooms[name].lines / 1100) for name in rooms}
    rows = max(levels) + 1
    figure = Figure(figsize=(WIDTH, FLOOR * rows + 1.0), dpi=110, facecolor="white")
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
        style = "round,pad=0,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch(box, widths[name], BOX, boxstyle=style, color=colour, lw=0))
        axes.text(x, y + 0.09, name, ha="center", va="center", color="white", fontsize=10, weight="bold")
        size = f"{rooms[name].modules} files, {rooms[name].lines:,} lines"
        axes.text(x, y - 0.15, size, ha="center", va="center", color="white", fontsize=7)
    total = f"{sum(r.modules for r in rooms.values())} files, {sum(r.lines for r in rooms.values()):,} lines"
    title = f"The rooms: each imports what is below it ({total}; lines that others stand for are left out)"
    axes.text(WIDTH / 2, FLOOR * rows + 0.6, title, ha="center", fontsize=13, color="#1f2933")
    with whole_file(path) as draft:
        figure.savefig(draft, format="png")
