"""A device without torch: a folder with the tower as ONNX, the integer codec and a config, and what runs it.

`tofc.Device.from_pretrained` reads such a folder; `tofc export-device` writes it.
"""

from __future__ import annotations

from pathlib import Path

from entropy import FeatureCodec
from entropy.storage import FILE_NAME
from tofc.config import DEVICE_CONFIG, CheckpointConfig
from tofc.errors import CheckpointError
from tofc.ondevice.config import read_device_config
from tofc.ondevice.vision import OnnxVision

__all__ = ["is_export", "load_export"]


def is_export(src: str | Path) -> bool:
    """Whether `src` is a folder that `tofc export-device` wrote."""
    return (Path(src) / DEVICE_CONFIG).is_file()


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
