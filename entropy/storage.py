"""The exported codec on disk: named integer and float64 arrays in one safetensors file, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE_NAME = "codec-integer.safetensors"
_LFS = b"version https://git-lfs.github.com/spec/"
FORMAT = {"format": "tofc-codec-integer", "version": "1"}


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> Path:
    """Write the arrays of a codec; the file appears whole or not at all. Returns the path."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    # Through bytes: safetensors' own writer makes files that only their owner can read.
    draft.write_bytes(save({name: np.ascontiguousarray(v) for name, v in tensors.items()}, metadata=FORMAT))
    draft.replace(path)
    return path


def take(tensors: Mapping[str, NDArray[Any]], name: str, dimensions: int, *types: type) -> NDArray[Any]:
    """One array of a codec; KeyError where it is missing, ValueError where it has another type or number of
    dimensions, is empty, or holds what is not finite."""
    value = tensors[name]
    if value.dtype not in [np.dtype(one) for one in types] or value.ndim != dimensions or value.size == 0:
        due = " or ".join(one.__name__ for one in types)
        raise ValueError(
            f"codec with {name} {value.dtype} {list(value.shape)}; due is {due} in {dimensions} dimensions"
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"codec whose {name} holds NaN or infinity")
    return value


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a codec.

    Raises FileNotFoundError where there is no file, ValueError where it is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no codec at {path}: a checkpoint holds {FILE_NAME}; `tofc train` makes it")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if {key: metadata.get(key) for key in FORMAT} != FORMAT:
                raise ValueError(f"{path} is not {FORMAT['format']} version {FORMAT['version']}: {metadata}")
            return {name: file.get_tensor(name) for name in list(file.keys())}
    except SafetensorError as error:
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise ValueError(f"{path} is a Git LFS pointer, not the file: run git lfs pull") from error
        raise ValueError(f"{path} is damaged: {error}") from error
