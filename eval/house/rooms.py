"""The rooms of a source tree: a folder of modules each, with its size and what it imports."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tofc.errors import UserError

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
    needs = {name: {other for other in room.imports if other in rooms} for name, room in rooms.items()}
    height = dict.fromkeys(rooms, 0)
    for _ in rooms:
        for name in rooms:
            peers = {
                other for other in rooms if _reaches(needs, name, other) and _reaches(needs, other, name)
            }
            peers.add(name)
            lower = {other for peer in peers for other in needs[peer]} - peers
            floor = max([height[name], *(1 + height[other] for other in lower)])
            height |= dict.fromkeys(peers, floor)
    return height


def direct(rooms: Mapping[str, Room]) -> set[tuple[str, str]]:
    """Imports that no way over a third room stands for: enough to see who rests on whom."""
    needs = {name: {other for other in room.imports if other in rooms} for name, room in rooms.items()}
    return {
        (name, other)
        for name, others in needs.items()
        for other in others
        if not any(
            _reaches(needs, third, other) for third in others - {other} if not _reaches(needs, third, name)
        )
    }


def _reaches(needs: Mapping[str, set[str]], start: str, goal: str) -> bool:
    seen, left = set(), [start]
    while left:
        here = left.pop()
        if here == goal:
            return True
        if here not in seen:
            seen.add(here)
            left.extend(needs.get(here, ()))
    return False


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
