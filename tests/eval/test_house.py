"""The picture of the rooms: what stands on what, as the imports say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from eval.house import direct, draw, floors, read_rooms
from tofc.errors import UserError

SOURCES = {
    "entropy/coder.py": "import numpy\n",
    "tofc/packet.py": "from entropy.coder import x\n",
    "tofc/cli/app.py": "import tofc.packet\nfrom entropy import coder\n",
    "tofc/__main__.py": "from tofc.cli.app import main\n",
    "tofc/serving/server.py": "from tofc.packet import Packet\ndef f():\n    import eval.rate.sweep\n",
    "eval/rate/sweep.py": "from tofc.packet import Packet\nimport eval.lab.rows\n",
    "eval/lab/rows.py": "\n\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_a_room_stands_above_what_it_imports(tree: Path) -> None:
    rooms = read_rooms(tree)
    assert set(rooms) == {"entropy", "tofc", "tofc/cli", "tofc/serving", "eval/rate", "eval/lab"}
    assert rooms["tofc"].modules == 2
    assert rooms["eval/lab"].lines == 2
    assert floors(rooms) == {
        "entropy": 0, "eval/lab": 0, "tofc": 1, "tofc/cli": 2, "tofc/serving": 2, "eval/rate": 2,
    }  # fmt: skip
    arrows = direct(rooms)
    assert ("tofc/cli", "tofc") in arrows
    assert ("tofc/cli", "entropy") not in arrows  # tofc stands for it
    assert ("eval/rate", "eval/lab") in arrows


def test_rooms_that_import_each_other_share_a_floor(tree: Path) -> None:
    (tree / "tofc" / "packet.py").write_text("import tofc.serving.server\n", encoding="utf-8")
    height = floors(read_rooms(tree))
    assert height["tofc"] == height["tofc/serving"]
    assert height["tofc/cli"] > height["tofc"]


def test_the_picture_is_drawn_and_other_folders_are_refused(tree: Path, tmp_path: Path) -> None:
    draw(read_rooms(tree), tmp_path / "house.png")
    with Image.open(tmp_path / "house.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    with pytest.raises(UserError, match="source tree"):
        read_rooms(tmp_path / "tofc")
