"""Commands that are killed at any moment: `python -m eval.serving kills` in short, and what it would see."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from eval.serving.kills import COMMANDS, content, differences, kill_all, prepare, run_command, torn_files
from tofc.training.pretrain import PretrainRun
from tofc.training.state import STATE_NAME


def test_encode_is_killed_at_any_moment(checkpoint_folder: Path, tmp_path: Path) -> None:
    command = f"encode ../../picture.png -o picture.tofc --model {checkpoint_folder}"
    outcome = kill_all(tmp_path, {"encode": 2}, commands={"encode": command})["encode"]
    assert outcome.faults == []
    assert outcome.kills == 2
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


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a training is given, and an unbroken one."""
    folder = tmp_path_factory.mktemp("disks")
    prepare(folder)
    run_command(COMMANDS["pretrain"], folder / "whole" / "pretrain", None)
    return folder


@pytest.fixture
def small_disk(unbroken: Path) -> Iterator[Path]:
    """A folder that holds no more than a file system of 8 MB, where this system lets one be made."""
    disk = unbroken / "broken" / "disk"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def train_until_full(folder: Path, fill: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> int:
    """Trains, with a disk that `fill` fills once there is a state; the step of the state that is left."""
    save = PretrainRun.save

    def save_and_fill(run: PretrainRun) -> None:
        save(run)
        if run.step == first + 2:
            fill(folder / "run")

    first = step_of(folder / "run" / STATE_NAME)
    monkeypatch.setattr(PretrainRun, "save", save_and_fill)
    with pytest.raises(
        RuntimeError, match=r"ended with 2: (going on .*\n)?tofc: cannot write"
    ) as caught:  # exit code 2
        run_command(COMMANDS["pretrain"], folder, None)
    monkeypatch.undo()
    said = str(caught.value).splitlines()
    assert len([line for line in said if "Traceback" in line or "fault of ours" in line]) == 0, said
    assert torn_files(folder) == []
    assert step_of(folder / "run" / STATE_NAME) == first + 2
    return first + 2


def step_of(state: Path) -> int:
    if not state.exists():
        return 0
    with safe_open(state, "numpy") as file:
        return int(file.metadata()["step"])


def test_a_training_goes_on_when_there_is_room_again(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may not grow beyond so much: first the log, then a state."""
    folder = unbroken / "broken" / "limit"

    def allow(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))  # of the child alone

    train_until_full(folder, lambda run: allow((run / "log.jsonl").stat().st_size), monkeypatch)
    train_until_full(folder, lambda run: allow((run / STATE_NAME).stat().st_size - 1), monkeypatch)
    run_command(COMMANDS["pretrain"], folder, None)
    assert differences(unbroken / "whole" / "pretrain", folder) == []


def test_a_training_on_a_full_disk(unbroken: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filler = small_disk / "filler"

    def fill(run: Path) -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    train_until_full(small_disk, fill, monkeypatch)
    filler.unlink()
    run_command(COMMANDS["pretrain"], small_disk, None)
    assert differences(unbroken / "whole" / "pretrain", small_disk) == []
