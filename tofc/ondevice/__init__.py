"""A device without torch: its tower is run by ONNX Runtime.

The graph of a small tower is written in memory, from the checkpoint; that of any tower by `tofc
export-device`, into a folder with codec and config. `tofc.Device.from_pretrained` reads both.
"""

from __future__ import annotations

from pathlib import Path

from entropy import FeatureCodec
from entropy.parameters import FILE_NAME
from tofc.config import DEVICE_CONFIG, CheckpointConfig, resolve
from tofc.errors import CheckpointError, UserError, is_installed
from tofc.hub import load_codec
from tofc.ondevice.checkpoint import TowerWeights, describe, read_device_config
from tofc.ondevice.vision import OnnxVision

__all__ = ["is_export", "load_checkpoint", "load_export", "runs_here"]

_LARGEST = 100_000_000  # weights of a tower whose graph is written anew at each start


def is_export(src: str | Path) -> bool:
    """Whether `src` is a folder that `tofc export-device` wrote."""
    return (Path(src) / DEVICE_CONFIG).is_file()


def runs_here(src: str | Path) -> bool:
    """Whether `load_checkpoint` takes a bundled name, a folder or a hub id, and what it needs is installed.

    Raises CheckpointError where there is no such checkpoint.
    """
    if not (is_installed("onnxruntime") and is_installed("onnx")):
        return False
    checkpoint = resolve(src)
    try:
        weights = TowerWeights.open(checkpoint.base, checkpoint.adapters)
        describe(checkpoint, weights, None)
    except UserError:
        return False  # torch knows more towers and processors, and says what is wrong with the others
    return weights.shape.block_parameters <= _LARGEST


def load_export(folder: str | Path) -> tuple[OnnxVision, CheckpointConfig, FeatureCodec]:
    """The parts of a device; CheckpointError where the folder is not whole or not of this release's format,
    MissingLibraryError without ONNX Runtime."""
    folder = Path(folder)
    config = read_device_config(folder)
    try:
        codec = FeatureCodec.load(folder / FILE_NAME)
    except (ValueError, FileNotFoundError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    defaults = CheckpointConfig(
        tiling=config.tiling, merging=config.merging, default_quality=config.default_quality
    )
    return OnnxVision.load(folder, config), defaults, codec


def load_checkpoint(src: str | Path) -> tuple[OnnxVision, CheckpointConfig, FeatureCodec | None]:
    """The parts of a device, from a whole checkpoint; `src` is a bundled name, a folder or a hub id.

    Raises CheckpointError where it is not whole, or so large that it is to be exported first,
    MissingLibraryError without ONNX Runtime and onnx.
    """
    checkpoint = resolve(src)
    codec = load_codec(checkpoint) if checkpoint.has_codec else None
    weights = TowerWeights.open(checkpoint.base, checkpoint.adapters)
    if weights.shape.block_parameters > _LARGEST:
        millions = weights.shape.block_parameters / 1e6
        raise CheckpointError(
            f"{src}: its vision tower has {millions:.0f} million weights, too many "
            "to prepare at each start: run tofc export-device once and load what it writes, or take torch"
        )
    config = describe(checkpoint, weights, codec)
    return OnnxVision.from_weights(weights, config), checkpoint.config, codec
