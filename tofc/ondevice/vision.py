"""Seeing without torch: pixels by Pillow and numpy, the vision tower by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofc.clock import Stopwatch
from tofc.errors import CheckpointError, MissingLibraryError
from tofc.ondevice.config import TOWER_FILE, DeviceConfig
from tofc.ondevice.pixels import cut
from tofc.tiling import Geometry

# Tiles in one pass of the tower: a bound on memory.
_TILES_AT_ONCE = 8


class OnnxVision:
    """The tower as an ONNX graph from "pixels" [T, 3, S, S] to "features" [T, N, C], both float32.

    See `tofc.device.Vision`.
    """

    def __init__(self, session: Any, config: DeviceConfig) -> None:
        self.config = config
        self._session = session

    @classmethod
    def load(cls, folder: Path, config: DeviceConfig) -> OnnxVision:
        """Reads the graph; CheckpointError where it is missing, damaged or does not fit its config."""
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as states
        except ModuleNotFoundError as error:
            raise MissingLibraryError(
                "a device without torch needs onnxruntime, which is not installed: pip install 'tofc[device]'"
            ) from error
        file = folder / TOWER_FILE
        if not file.is_file():
            raise CheckpointError(f"{folder} has no {TOWER_FILE}: the export is not complete")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        # Threads that wait for work sleep: spinning would cost a device more than it gains.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except (
            states.Fail, states.InvalidArgument, states.InvalidGraph, states.InvalidProtobuf,
            states.NoModel, states.NoSuchFile, states.NotImplemented, states.RuntimeException,
        ) as error:  # fmt: skip
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{file} cannot be read, export it again: {reason}") from error
        side = config.geometry.image_size
        taken, given = session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[1:]
        if taken != [3, side, side] or given != [config.geometry.side**2, config.width]:
            raise CheckpointError(
                f"{file} turns {taken} into {given}, which is not what its config says: export it again"
            )
        return cls(session, config)

    @property
    def width(self) -> int:
        """Channels C of a feature."""
        return self.config.width

    @property
    def base_config(self) -> Geometry:
        """The shape of the tiles."""
        return self.config.geometry

    def stopwatch(self) -> Stopwatch:
        """A clock; nothing here is queued."""
        return Stopwatch()

    def cut(self, images: Sequence[Image.Image], tiling: str) -> list[NDArray[np.float32]]:
        """Tiles float32 [T, 3, S, S] of each picture."""
        return [cut(image, tiling, self.config.geometry, self.config.pixels) for image in images]

    def see(self, tiles: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Features float32 [T, N, C] of each picture's tiles."""
        together = np.concatenate(tiles)
        parts = [
            self._session.run(["features"], {"pixels": together[first : first + _TILES_AT_ONCE]})[0]
            for first in range(0, len(together), _TILES_AT_ONCE)
        ]
        return np.split(np.concatenate(parts), np.cumsum([len(t) for t in tiles])[:-1])
