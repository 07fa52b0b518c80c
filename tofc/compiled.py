"""Compiled kernels on disk: a damaged file is compiled anew, and a full disk costs time, not answers."""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

from numba.core.caching import IndexDataCacheFile

_DIGEST_BYTES = 32
_DAMAGED = (
    UnpicklingError, EOFError, OSError, ValueError, TypeError, LookupError, ImportError, AttributeError
)  # fmt: skip
_log = logging.getLogger(__name__)


class CheckedCacheFile(IndexDataCacheFile):
    """numba's cache of one kernel, with a checksum behind each file of machine code.

    numba runs whatever it finds: code that was cut ends the process.
    """

    def save(self, key: Any, data: Any) -> None:
        """Keeps what was compiled, where there is room."""
        try:
            super().save(key, data)
        except OSError as error:
            _say_once(self._cache_path, str(error.strerror))

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except _DAMAGED:
            return {}

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(content + hashlib.sha256(content).digest())

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
            raise OSError(f"{name} is damaged")  # numba's word for what is not there
        return super()._load_data(name)  # which reads up to the checksum


def is_compiled(kernel: Any) -> bool:
    """Whether a kernel's machine code is on disk; where it can be nowhere, each process compiles anew."""
    file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    return file is not None and Path(file._index_path).is_file()


@cache
def _say_once(folder: str, reason: str) -> None:
    _log.warning("compiled code cannot be kept in %s (%s): each process compiles for itself", folder, reason)


def check_caches(*modules: ModuleType) -> None:
    """Lets the kernels of some modules keep their compiled code in checked files."""
    for module in modules:
        for kernel in vars(module).values():
            file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
            if type(file) is IndexDataCacheFile:
                file.__class__ = CheckedCacheFile
