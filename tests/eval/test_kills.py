"""Commands that are killed at any moment: `python -m eval.serving kills` in short, and what it would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from eval.serving.kills import content, differences, kill_all, torn_files


def test_encode_is_killed_at_any_moment(checkpoint_folder: Path, tmp_path: Path) -> None:
    command = f"encode ../../picture.png -o picture.tofc --model {checkpoint_folder}"
    outcome = kill_all(tmp_path, {"encode": 2}, commands={"encode": command})["encode"]
    assert outcome.faults == []
    assert outcome.kills + outcome.ended == 2
    assert (tmp_path / "broken" / "encode" / "picture.tofc").is_file()


@pytest.mark.parametrize(
    "name, data",
    [("a.json", b"{"), ("a.safetensors", b"short"), ("chat_template.jinja", b""), ("a.png", b"\x89PNG\r\n"),
     ("report.html", b"<html>"), ("a.tofc", b"TOFC"), ("log.jsonl", b'{"step": 1}\n{"st\n{"step": 3}\n'),
     ("a.parquet", b"PAR1")],
)  # fmt: skip
def test_half_a_file_is_seen(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert len(torn_files(tmp_path)) == 1


def test_only_what_a_run_says_counts(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder, names, speed in ((whole, "ab", 1), (broken, "ba", 2)):
        folder.mkdir()
        save_file({name: np.zeros(2) for name in names}, folder / "model.safetensors")
        (folder / "log.jsonl").write_text(f'{{"step": 1, "pictures_per_second": {speed}}}\n')
    assert differences(whole, broken) == []
    assert content(whole / "log.jsonl") == [{"step": 1}]
    (broken / ".new-1-model.safetensors").touch()
    save_file({"a": np.ones(2)}, broken / "model.safetensors")
    (broken / "more.json").write_text("1")
    assert len(differences(whole, broken)) == 3
