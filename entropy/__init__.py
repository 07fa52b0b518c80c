"""Merged features to bytes and back: hyperprior entropy models, router, integer tables, range coder.

`FeatureCodec` codes and needs numpy and numba alone; `TrainableCodec` learns, needs torch, and is imported
on demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from entropy import rans
from entropy.codec import FeatureCodec
from entropy.errors import StreamError

if TYPE_CHECKING:
    from entropy.trainable import CodecConfig, CodecOutput, TrainableCodec

__all__ = ["CodecConfig", "CodecOutput", "FeatureCodec", "StreamError", "TrainableCodec", "rans"]


def __getattr__(name: str) -> object:
    if name in ("CodecConfig", "CodecOutput", "TrainableCodec"):
        try:
            from entropy import trainable
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"training a codec needs {error.name}: pip install 'tofc[edge]'", name=error.name
            ) from error
        return getattr(trainable, name)
    raise AttributeError(f"module 'entropy' has no attribute {name!r}")
