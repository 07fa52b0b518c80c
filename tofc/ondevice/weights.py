"""The weights that a tower's graph is written from: those of a checkpoint, with its adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.tower_files import TowerFiles, TowerShape
from tofc.adapters import TOWER, Change, foreign, read_adapters
from tofc.errors import CheckpointError
from tofc.hub import checkpoint_faults

ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "quick_gelu")
_INNER = re.compile(r"^vision_model\.")  # one level that earlier transformers releases have


class TowerWeights:
    """Weights of a tower by canonical name (`encoder.layers.0.mlp.fc1.weight`), read when asked for."""

    def __init__(self, files: TowerFiles, changes: Mapping[str, Change]) -> None:
        self.shape: TowerShape = files.shape
        self.changes = changes
        self._files = files

    @property
    def source(self) -> str:
        """Where they come from."""
        return self._files.source

    @classmethod
    def open(cls, base: str | Path, adapters: Path | None) -> TowerWeights:
        """Finds them; CheckpointError where something is missing or the tower is of another kind."""
        with checkpoint_faults():
            files = TowerFiles.open(base)
        if files.shape.activation not in ACTIVATIONS:
            raise CheckpointError(
                f"{base}: the tower's activation is {files.shape.activation}; without PyTorch a device has "
                f"{', '.join(ACTIVATIONS)}: encode with tofc[edge]"
            )
        if not files.shape.depth:
            raise CheckpointError(f"{base}: vision_feature_layer asks for the state before the first block")
        found = [] if adapters is None else read_adapters(adapters, TOWER)
        changes = {_INNER.sub("", change.name): change for change in found}
        for name in changes.keys() - files.weights.keys():
            assert adapters is not None
            raise foreign(adapters, name)
        return cls(files, changes)

    def stored(self, name: str) -> NDArray[Any]:
        """A weight in the type that the checkpoint has it in, without what adapters add to it."""
        change = self.changes.get(name)
        if change is not None and change.right is None:
            return change.left
        with checkpoint_faults():
            return self._files.read(name)

    def added(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """The factors [out, r] and [r, in] whose product adapters add to a weight, None where they do not."""
        change = self.changes.get(name)
        return None if change is None or change.right is None else (change.left, change.right)

    def whole(self, name: str) -> NDArray[np.float32]:
        """A weight with its adapters, float32."""
        values = self.stored(name).astype(np.float32)
        added = self.added(name)
        return values if added is None else values + added[0] @ added[1]
