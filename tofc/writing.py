"""Files and folders come to their names whole: a process that is killed leaves the old one or the new one."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file, text as UTF-8; its folder must be there. Returns the path."""
    with whole_file(path) as draft:
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside to write to, which becomes `path` when the block ends, and goes where it fails."""
    draft = path.with_name(f".{path.name[:200]}.{os.getpid()}.new")
    try:
        yield draft
        _flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside to write into, which takes the place of `folder` when the block ends.

    Where the block fails, what was there stays. What killed processes left beside it is cleared first, or put
    back where they had moved it aside.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    draft, aside = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    draft.mkdir()
    try:
        yield draft
        for path in (*draft.rglob("*"), draft):
            _flush(path)
        if not folder.exists():
            draft.rename(folder)
        elif not _exchange(draft, folder):
            folder.rename(aside)
            draft.rename(folder)
        _flush(folder.parent)
    finally:
        for rest in (draft, aside):
            shutil.rmtree(rest, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Removes drafts of processes that are gone; a folder that one of them moved aside comes back."""
    for path in folder.parent.glob(f".{folder.name}.*.*"):
        process, _, end = path.name[len(folder.name) + 2 :].partition(".")
        if end not in ("new", "old") or not process.isdecimal() or _runs(int(process)):
            continue
        if end == "old" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
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
