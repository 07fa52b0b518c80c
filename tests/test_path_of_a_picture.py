"""CONTRIBUTING says what a reader must read from pixels to the answer: that is what runs, and it is short."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 1200  # lines of code
# What gives a value or forwards a call in one statement needs no reading where it is called.
ACCESSOR = 3
# What only refuses bad arguments is read by whoever gave one.
CHECKS = ("check", "needs", "post_init")
ROOMS = ("tofc", "encoders", "entropy")

Place = tuple[str, str]  # file, function

# In a process of its own: which coder works depends on what a process has coded before.
TRACED = """
import io, json, sys
from PIL import Image
from tofc import Device, Edge, Packet
from tofc.examples import example_bytes

device, edge = Device.from_pretrained("photos-tiny", runtime="torch"), Edge.from_pretrained("photos-tiny")
picture = Image.open(io.BytesIO(example_bytes("cat.png")))
ran = set()

def note(frame, event, argument):
    if event == "call":
        ran.add(frame.f_code)

for profiler in (None, note):  # what is made once is made before
    sys.setprofile(profiler)
    packet = bytes(device.encode(picture))
    answer = edge.answer(Packet.from_bytes(packet), "How many cats are there?")
sys.setprofile(None)
assert answer.text
print(json.dumps([(code.co_filename, code.co_name, code.co_firstlineno) for code in ran]))
"""


@pytest.fixture(scope="module")
def lines_read() -> dict[Place, int]:
    """Lines of the functions that run while a picture is coded, and a question about it answered."""
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, check=True)
    found: dict[Place, int] = defaultdict(int)
    for name, function, first in json.loads(done.stdout.splitlines()[-1]):
        file = Path(name)
        if not file.is_relative_to(ROOT) or file.relative_to(ROOT).parts[0] not in ROOMS:
            continue
        lines = functions(file).get(first, 0)
        if lines > ACCESSOR and not function.strip("_").startswith(CHECKS):
            found[str(file.relative_to(ROOT)), function] += lines
    return found


@cache
def functions(file: Path) -> dict[int, int]:
    """Lines of code of each function of a file, by its first line; docstrings and comments do not count."""
    source = file.read_text(encoding="utf-8").splitlines()
    sizes = {}
    for node in ast.walk(ast.parse("\n".join(source))):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            lines = set(range(first, (node.end_lineno or first) + 1))
            if ast.get_docstring(node) is not None:
                lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            code = [line for line in lines if not re.match(r"\s*(#|$)", source[line - 1])]
            sizes[first] = len(code)
    return sizes


def named(heading: str = "The path of a picture") -> set[Place]:
    """What the table below a heading of CONTRIBUTING names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"### {heading}\n")[1]
    text = text.split("\n#")[0]
    rows = re.findall(r"^\|[^|]*\| `([^|`]*\.py)` \|([^|]*)\|$", text, flags=re.MULTILINE)
    return {(file, name) for file, names in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_table_names_what_runs(lines_read: dict[Place, int]) -> None:
    ran = {place: lines_read[place] for place in sorted(lines_read)}
    missing, idle = sorted(ran.keys() - named()), sorted(named() - ran.keys())
    assert not missing, f"on the path of a picture, and not in CONTRIBUTING.md: {missing}"
    assert not idle, f"in CONTRIBUTING.md, and not on the path of a picture: {idle}"


def test_the_path_is_short(lines_read: dict[Place, int]) -> None:
    assert sum(lines_read.values()) <= MOST


def test_what_else_is_named_is_there() -> None:
    places = named("Where else")
    assert len(places) > 10
    for file, name in places:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in found, f"{file} has no {name}: put right CONTRIBUTING.md"
