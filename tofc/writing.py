"""Files and folders come to their names whole: a process that is killed leaves the old one or the new one.

What is written stands beside its name until it is complete, as `.new-PROCESS-NAME`. Drafts of processes that
are gone are cleared by whoever writes the same name next.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tofc.errors import UserError

_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux
_NAME_LENGTH = 200  # of 255 bytes, so that a draft's name fits as well
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file, text as UTF-8. Returns the path; UserError where it cannot be written."""
    with whole_file(path) as draft:
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def write_json(path: Path, values: Any, indent: int = 1) -> Path:
    """Writes values as JSON, which has no NaN and no infinities (ValueError). Returns the path."""
    return write_whole(path, json.dumps(values, indent=indent, allow_nan=False) + "\n")


def append_line(path: Path, text: str) -> None:
    """Adds a line to a file; UserError where it cannot. A kill may tear it: readers skip a torn last line."""
    with faults_named(path), path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside to write to, which becomes `path` when the block ends, and goes where it fails.

    It ends as `path` does: libraries tell formats by that. Missing folders are made. Raises UserError where
    the system refuses (no space, no permission).
    """
    path = path.resolve() if path.is_symlink() else path
    with faults_named(path):
        draft = _begin(path)
        try:
            yield draft
            _flush(draft)
            os.replace(draft, path)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        _flush(path.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside to write into, which takes the place of `folder` when the block ends.

    Where the block fails, what was there stays. Missing folders above it are made. Errors of `whole_file`.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    with faults_named(folder):
        draft, aside = _begin(folder), _beside(folder, "old", os.getpid())
        try:
            draft.mkdir()
            yield draft
            for path in (*draft.rglob("*"), draft):
                _flush(path)
            if not folder.exists():
                os.rename(draft, folder)
            elif not _exchange(draft, folder):
                os.rename(folder, aside)
                os.rename(draft, folder)
                shutil.rmtree(aside, ignore_errors=True)
            _flush(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turns what the system refuses while `path` is written, by whatever library, into a UserError."""
    try:
        yield
    except Exception as error:
        reason = disk_fault(error, path)
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}; make room there, or choose another place") from error


def disk_fault(error: BaseException, path: Path | None = None) -> str | None:
    """What the system says of a disk that is full, read-only or damaged; None where that is not the error.

    With `path`, all counts that it refuses to that, its draft and the folders above it. Libraries in Rust
    tell the number in their text.
    """
    if isinstance(error, OSError):
        refused = Path(error.filename) if path and isinstance(error.filename, (str, os.PathLike)) else None
        if error.errno in _DISK_FAULTS or (path and refused and _belongs(refused, path)):
            return error.strerror
        return None
    told = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(told[1])) if told and int(told[1]) in _DISK_FAULTS else None


def _begin(path: Path) -> Path:
    """Where the draft of `path` belongs, once its folder is there and what killed processes left is not.

    A folder that one of them had moved aside comes back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("old", "new"):
        for rest in path.parent.glob(f".{kind}-*-{glob.escape(path.name[-_NAME_LENGTH:])}"):
            process = rest.name.split("-")[1]
            if rest != _beside(path, kind, process) or not process.isdecimal() or _runs(int(process)):
                continue
            if kind == "old" and not path.exists():
                os.rename(rest, path)
            elif rest.is_dir():
                shutil.rmtree(rest, ignore_errors=True)
            else:
                rest.unlink(missing_ok=True)
    return _beside(path, "new", os.getpid())


def _beside(path: Path, kind: str, process: int | str) -> Path:
    return path.with_name(f".{kind}-{process}-{path.name[-_NAME_LENGTH:]}")


def _belongs(file: Path, path: Path) -> bool:
    return path.is_relative_to(file) or file.is_relative_to(_beside(path, "new", os.getpid()))


def _runs(process: int) -> bool:
    if process == os.getpid():  # an earlier one of the same number: this one writes a name once at a time
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two folders in one step, where the system can; whether it did."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return (
        rename is not None and rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0
    )


def _flush(path: Path) -> None:
    """Asks the system to have it on disk, where that can be asked."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
