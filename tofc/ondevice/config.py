"""What a device knows of its checkpoint: written beside an export as `device.json`, or read from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from tofc.config import DEVICE_CONFIG, MergingConfig, from_mapping
from tofc.errors import ConfigError
from tofc.hub import read_json
from tofc.tiling import Geometry
from tofc.writing import write_json

TOWER_FILE = "vision.onnx"
DEVICE_VERSION = 1
PRECISIONS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class PixelConfig:
    """How pixels are prepared: Pillow's `resample` filter, then (value * rescale_factor - mean) / std."""

    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    rescale_factor: float = 1 / 255
    resample: int = 3


@dataclass(frozen=True)
class DeviceConfig:
    """A device: the tower's width and the shape of its tiles, pixels, and the checkpoint's defaults.

    `made_from` names the checkpoint that an edge needs to read this device's packets, `model_tag` (hex) is
    what they carry; empty without a codec. `precision` is that of the tower's weights.
    """

    made_from: str
    model_tag: str
    width: int
    geometry: Geometry
    pixels: PixelConfig
    tiling: str = "base"
    merging: MergingConfig = field(default_factory=MergingConfig)
    default_quality: int = 4
    precision: str = "float32"
    format_version: int = DEVICE_VERSION

    def __post_init__(self) -> None:
        if self.format_version != DEVICE_VERSION:
            raise ConfigError(
                f"format_version is {self.format_version}, this release reads {DEVICE_VERSION}: export the "
                "checkpoint again with the release of tofc that the device has"
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")


def read_device_config(folder: Path) -> DeviceConfig:
    """The config of an exported device; CheckpointError where it is damaged or of another format."""
    file = folder / DEVICE_CONFIG
    return from_mapping(DeviceConfig, read_json(file), str(file))


def write_device_config(folder: Path, config: DeviceConfig) -> None:
    """Writes `config` as the `device.json` of a folder."""
    write_json(folder / DEVICE_CONFIG, dataclasses.asdict(config), indent=2)
