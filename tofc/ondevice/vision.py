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
from tofc.ondevice.checkpoint import TOWER_FILE, DeviceConfig, TowerWeights
from tofc.ondevice.pixels import cut
from tofc.tiling import Geometry, tiles_at_once

_SMALL = 1 << 26  # bytes of weights up to which a second thread costs more than it gains
_PROVIDERS = ["CPUExecutionProvider"]


class OnnxVision:
    """The tower as an ONNX graph from "pixels" [T, 3, S, S] to "features" [T, N, C], both float32.

    See `tofc.device.Vision`.
    """

    def __init__(self, session: Any, config: DeviceConfig) -> None:
        self.config = config
        self._session = session

    @classmethod
    def load(cls, folder: Path, config: DeviceConfig) -> OnnxVision:
        """Reads an exported graph; CheckpointError where it is missing, damaged or not as its config."""
        file = folder / TOWER_FILE
        if not file.is_file():
            raise CheckpointError(f"{folder} has no {TOWER_FILE}: the export is not complete")
        weights = sum(part.stat().st_size for part in folder.glob(f"{TOWER_FILE}*"))
        session = start(file, str(file), one_thread=weights <= _SMALL)
        side = config.geometry.image_size
        taken, given = session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[1:]
        if taken != [3, side, side] or given != [config.geometry.side**2, config.width]:
            raise CheckpointError(
                f"{file} turns {taken} into {given}, which is not what its config says: export it again"
            )
        return cls(session, config)

    @classmethod
    def from_weights(cls, weights: TowerWeights, config: DeviceConfig) -> OnnxVision:
        """Writes the graph of a checkpoint's tower in memory, and runs it."""
        _require("onnx")
        from tofc.ondevice.graph import TowerGraph

        graph = TowerGraph(weights).tower().SerializeToString()
        return cls(start(graph, weights.source, one_thread=len(graph) <= _SMALL), config)

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
        """Features float32 [T, N, C] of each picture's tiles, as many at once as memory allows."""
        together = np.concatenate(tiles)
        step = tiles_at_once(self.config.geometry.side**2, self.config.width)
        parts = [
            self._session.run(["features"], {"pixels": together[first : first + step]})[0]
            for first in range(0, len(together), step)
        ]
        return np.split(np.concatenate(parts), np.cumsum([len(t) for t in tiles])[:-1])


def start(graph: bytes | Path, name: str, *, one_thread: bool = False) -> Any:
    """A session of ONNX Runtime on the CPU; `name` says in errors what the graph is of.

    Raises CheckpointError for a graph that cannot be run, MissingLibraryError without ONNX Runtime.
    """
    _require("onnxruntime")
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    # Threads that wait for work sleep: spinning would cost a device more than it gains.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if one_thread:
        options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(graph, options, providers=_PROVIDERS)
    except (
        states.Fail, states.InvalidArgument, states.InvalidGraph, states.InvalidProtobuf,
        states.NoModel, states.NoSuchFile, states.NotImplemented, states.RuntimeException,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{name} cannot be read, export it again: {reason}") from error


def _require(library: str) -> None:
    try:
        __import__(library)
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f"a device without torch needs {error.name}, which is not installed: pip install 'tofc[device]'"
        ) from error
