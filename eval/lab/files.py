"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tofc.errors import UserError


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file that appears whole or not at all; UserError where it cannot be there."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; choose another place") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Writes a file of text, whole or not at all."""
    write_whole(target, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(target: Path, found: Mapping[str, Any]) -> None:
    """Writes figures as indented JSON, which has no NaN and no infinities."""
    write_text(target, json.dumps(found, indent=1, allow_nan=False) + "\n")
