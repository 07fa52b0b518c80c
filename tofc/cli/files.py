"""Files and streams of the command line: `-` for the standard ones, and outputs that are whole or absent."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from tofc.errors import UserError
from tofc.writing import write_whole

STREAM = "-"
_OUTPUTS = (STREAM, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")  # a file behind it must not be replaced


class StandardInput(io.BytesIO):
    """What was piped in, as a file that errors can call by its name."""

    name = "standard input"


def read_input(source: str, what: str) -> bytes:
    """All bytes of the file `source`, or of standard input for "-"; `what` names it in errors (UserError)."""
    if source == STREAM:
        if sys.stdin is None:
            raise UserError(f"{what} -: standard input is closed; pipe one in or name a file")
        if sys.stdin.isatty():
            raise UserError(f"{what} -: nothing is piped into standard input; pipe one in or name a file")
        return sys.stdin.buffer.read()
    check_input(source, what)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"{what} {source} cannot be read: {error.strerror}") from None


def check_input(source: str, what: str) -> None:
    """Raises UserError unless `source` is "-" or something that can be read as a file."""
    if source == STREAM:
        return
    path = Path(source)
    try:
        is_there, is_folder = path.exists(), path.is_dir()
    except OSError as error:  # a name that is too long, or below a folder without permission
        raise UserError(f"{what} {source[:200]} cannot be read: {error.strerror}") from None
    if not is_there:
        raise UserError(f"{what} {source} does not exist; check the path (you are in {Path.cwd()})")
    if is_folder:
        raise UserError(f"{what} {source} is a folder; name a file in it")


def check_output(target: str, inputs: tuple[str, ...] = ()) -> None:
    """Raises UserError where `target` cannot become a file, before any work is spent on its contents.

    `inputs` are files that the same command reads and that must survive it.
    """
    if target in _OUTPUTS:
        if sys.stdout.isatty():
            raise UserError(
                "a packet is no text for a terminal; pipe standard output on, or name a file with -o"
            )
        return
    path = Path(target)
    if path.is_dir():
        raise UserError(f"output {target} is a folder; name a file in it, e.g. {path / 'picture.tofc'}")
    if not path.parent.is_dir():
        raise UserError(f"output folder {path.parent} does not exist; make it first: mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"output folder {path.parent} is not writable for you; choose another with -o")
    for source in inputs:
        if source != STREAM and path.exists() and path.samefile(source):
            raise UserError(f"output {target} is the input itself; choose another name with -o")


def write_output(target: str, data: bytes) -> None:
    """Writes `data` to the file `target`, or to standard output for "-".

    A regular file appears whole or not at all: the bytes go to a temporary file beside it that takes its name
    at the end. Raises UserError when the system refuses (no space, no permission).
    """
    try:
        if target in _OUTPUTS:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        path = Path(target)
        if path.exists() and not path.is_file():  # a pipe or a device, which must not be replaced by a file
            with path.open("wb") as stream:
                stream.write(data)
            return
        write_whole(path, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"output {target} cannot be written: {error.strerror}") from None


def run_folder(out: Path | None, name: str) -> Path:
    """The folder of a run: `out`, or runs/`name`; UserError where a file is in the way."""
    folder = out if out is not None else Path("runs") / name
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    return folder


def check_new(folder: Path) -> None:
    """Raises UserError unless `folder` is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name a new folder")
