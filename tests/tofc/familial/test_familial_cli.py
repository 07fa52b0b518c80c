"""`tofc familial` and `--exit`, as people type them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.tofc.conftest import Made
from tofc.cli.app import app
from tofc.familial.index import read_index

CORPUS = "tests.tofc.familial.tiny_corpus:TinyCorpus"


def tofc_command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def picture_file(tmp_path: Path, picture: Any) -> Path:
    picture.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_members_are_listed_and_found(made: Made) -> None:
    listed = tofc_command("familial", "members", made.folder)
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [
        "e1-50",
        "e1",
        "e3-50",
        "e3",
        "full",
    ]
    found = json.loads(tofc_command("familial", "members", made.folder, "--json").stdout)["members"]
    assert [member["name"] for member in found] == ["e1-50", "e1", "e3-50", "e3", "full"]
    chosen = json.loads(tofc_command("familial", "members", made.folder, "--ratio", "0.6", "--json").stdout)
    assert chosen["share"] <= 0.6
    assert tofc_command("familial", "members", made.folder, "--budget", "12").exit_code == 2


def test_ask_names_an_exit(made: Made, picture_file: Path) -> None:
    said = {}
    for exit in ("e1", "e3-50", "full"):
        words = ("ask", picture_file, "How many?", "--model", made.folder, "--exit", exit, "--json")
        answer = json.loads(tofc_command(*words).stdout)
        assert answer["exit"] == exit
        said[exit] = answer["answer"]
    assert len(set(said.values())) > 1
    unknown = tofc_command("ask", picture_file, "How many?", "--model", made.folder, "--exit", "e2")
    assert unknown.exit_code == 2
    assert "e1-50, e1, e3-50, e3, full" in unknown.stderr


def test_calibrated_exits_are_written_and_used(made: Made, picture_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(made.folder, folder)
    before = tofc_command("ask", picture_file, "How many?", "--model", folder, "--exit", "auto")
    assert before.exit_code == 2
    assert "tofc familial calibrate" in before.stderr
    words = (
        "familial",
        "calibrate",
        folder,
        "--member",
        "e1",
        "--member",
        "e3",
        "--pictures",
        2,
        "--data",
        CORPUS,
    )
    found = json.loads(tofc_command(*words, "--json").stdout)
    policy = read_index(folder / "family").policy
    assert policy is not None
    assert [stage.member for stage in policy.stages] == ["e1", "e3"]
    assert found["policy"]["stages"][0]["threshold"] == policy.stages[0].threshold
    assert found["compute"] <= 1
    words = ("ask", picture_file, "How many?", "--model", folder, "--json", "--exit")
    alone = {name: json.loads(tofc_command(*words, name).stdout) for name in ("e1", "e3", "full")}
    kept = (s.member for s in policy.stages if alone[s.member]["confidence"] >= s.threshold)
    expected = next(kept, "full")
    given = json.loads(tofc_command(*words, "auto").stdout)
    assert (given["exit"], given["answer"]) == (expected, alone[expected]["answer"])
    assert tofc_command("familial", "calibrate", folder, "--member", "e1", "--keep", "2").exit_code == 2


def test_any_data_calibrates_with_its_options(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(made.folder, folder)
    words = ("familial", "calibrate", folder, "--member", "e1", "--pictures", 1)
    words = (*words, "--data", "eval.rate.scenes:ScenesData")
    done = tofc_command(*words, "--option", "split=validation", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["policy"]["stages"][0]["member"] == "e1"
    for wrong in ("path=there", "split", "split=[", "split=nowhere"):
        assert tofc_command(*words, "--option", wrong).exit_code == 2
    assert tofc_command(*words[:-1], "nothing.at.all:Data").exit_code == 2


def test_only_ruyi_checkpoints_are_imported(deep_base: Path, tmp_path: Path) -> None:
    done = tofc_command("familial", "import", deep_base, tmp_path / "out")
    assert done.exit_code == 2
    assert "names no early_exit_points" in done.stderr
    assert not (tmp_path / "out").exists()
