"""Merged features to bytes and back: hyperprior entropy models, router, integer tables, range coder.

`FeatureCodec` codes and needs numpy and, as soon as it writes or reads much, numba; `TrainableCodec` learns,
needs torch, and is imported on demand.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from entropy.codec import FeatureCodec
from entropy.errors import StreamError

if TYPE_CHECKING:
    from entropy import rans
    from entropy.trainable import CodecConfig, CodecOutput, TrainableCodec

__all__ = ["CodecConfig", "CodecOutput", "FeatureCodec", "StreamError", "TrainableCodec", "rans"]


def __getattr__(name: str) -> object:
    if name == "rans":
        return import_module("entropy.rans")  # which imports numba
    if name in ("CodecConfig", "CodecOutput", "TrainableCodec"):
        try:
            from entropy import trainable
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"training a codec needs {error.name}: pip install 'tofc[edge]'", name=error.name
            ) from error
        return getattr(trainable, name)
    raise AttributeError(f"module 'entropy' has no attribute {name!r}")
