"""Compiled kernels on disk: a damaged file is compiled anew, and a full disk costs time, not answers.

This imports numba, and is imported where kernels are about to be used.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
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


@cache
def load_kernels(module: str, used: str) -> None:
    """Imports the kernels of a module, which keep their machine code in checked files.

    used: the one that is about to be used; where its code is not on disk, a line says that it is compiled.
    """
    kernels = vars(import_module(module))
    files = {name: getattr(getattr(k, "_cache", None), "_cache_file", None) for name, k in kernels.items()}
    for file in files.values():
        if type(file) is IndexDataCacheFile:
            file.__class__ = CheckedCacheFile
    file = files[used]
    is_on_disk = file is not None and Path(file._index_path).is_file()
    if hasattr(kernels[used], "py_func") and not is_on_disk:  # which it has not without compilation
        _log.warning("compiling %s, once after each installation: some seconds", module)


@cache
def _say_once(folder: str, reason: str) -> None:
    _log.warning("compiled code cannot be kept in %s (%s): each process compiles for itself", folder, reason)
