"""Files and folders come to their names whole, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tofc import writing
from tofc.errors import UserError
from tofc.writing import whole_file, whole_folder, write_whole

KILLED = (
    "import os, signal, sys; from pathlib import Path; from tofc.writing import whole_file, whole_folder\n"
    "target = Path(sys.argv[2])\n"
    "with (whole_folder if sys.argv[1] == 'folder' else whole_file)(target) as draft:\n"
    "    (draft / 'new.txt' if draft.is_dir() else draft).write_text('half')\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_process_leaves_the_old_one(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
        (target / "old.txt").write_text("old")
    else:
        target.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, kind, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2  # a hidden draft
    if kind == "file":
        assert target.read_text() == "old"
        write_whole(target, "new")
        assert target.read_text() == "new"
    else:
        assert names(target) == ["old.txt"]
        with whole_folder(target) as draft:
            (draft / "new.txt").write_text("new")
        assert names(target) == ["new.txt"]
    assert names(tmp_path) == ["target"]  # what the killed one left is cleared


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(writing, "_exchange", lambda first, second: False)
    target = tmp_path / "some" / "target"
    for number in range(3):
        with whole_folder(target) as draft:
            (draft / f"{number}.txt").write_text(str(number))
        assert names(target) == [f"{number}.txt"]
        assert names(target.parent) == ["target"]


def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """A process was killed between its two renames, where a system cannot exchange two folders in one."""
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    aside = tmp_path / f".old-{int(gone.stdout)}-target"
    aside.mkdir()
    (aside / "old.txt").write_text("old")
    target = tmp_path / "target"
    with pytest.raises(RuntimeError), whole_folder(target):
        raise RuntimeError("a fault in what writes")
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["target"]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_whole(target, "old")

    def full(path: Path, content: bytes) -> int:
        path.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="file: No space left"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "")
    for target in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_whole(target, "new")
    with (
        pytest.raises(UserError, match=r"File exists|Not a directory"),
        whole_folder(tmp_path / "file" / "a"),
    ):
        pass
    assert names(tmp_path) == ["file"]


def test_other_faults_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "file"):
        (tmp_path / "nowhere").read_bytes()
    assert names(tmp_path) == []


def test_what_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").symlink_to(tmp_path / "real" / "file")
    with whole_folder(tmp_path / "link") as draft:
        (draft / "new.txt").write_text("new")
    write_whole(tmp_path / "file", "text")
    assert names(tmp_path) == ["file", "link", "real"]
    assert names(tmp_path / "real") == ["file", "new.txt"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("target", ["folder", "folder/state.safetensors"])
def test_a_disk_that_refuses_libraries_in_rust(tmp_path: Path, target: str) -> None:
    """A limit on the size of files stands for the end of a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = whole_folder if target == "folder" else whole_file
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with (
            pytest.raises(UserError, match=r"cannot write.*File too large"),
            whole(tmp_path / target) as draft,
        ):
            save_file({"a": np.zeros(999)}, draft / "a" if draft.is_dir() else draft)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / target).exists()
