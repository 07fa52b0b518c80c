"""What a device takes from a checkpoint, read without torch: the tower's weights, and how to prepare pixels.

What it has to know besides stands in `device.json` beside an export, or is read from the whole checkpoint.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders import files
from encoders.tower_files import TowerFiles, TowerShape
from entropy import FeatureCodec
from tofc.adapters import TOWER, Change, foreign, read_adapters
from tofc.config import CONFIG_NAME, DEVICE_CONFIG, Checkpoint, MergingConfig, from_mapping
from tofc.errors import CheckpointError, ConfigError
from tofc.hub import checkpoint_faults, fetch, read_json
from tofc.packet import TAG_BYTES
from tofc.tiling import Geometry
from tofc.writing import write_json

TOWER_FILE = "vision.onnx"
DEVICE_VERSION = 1
PRECISIONS = ("float32", "float16", "int8")
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers of filters


@dataclass(frozen=True)
class PixelConfig:
    """How pixels are prepared: Pillow's `resample` filter, then (value * rescale_factor - mean) / std."""

    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    rescale_factor: float = 1 / 255
    resample: int = BICUBIC

    def __post_init__(self) -> None:
        if self.resample not in (BILINEAR, BICUBIC):
            raise ConfigError(
                f"the checkpoint's processor resizes with filter {self.resample}; without PyTorch a device "
                "has 2 (bilinear) and 3 (bicubic): set `resample` in its processor, or encode with tofc[edge]"
            )


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


ACTIVATIONS = ("gelu_pytorch_tanh", "gelu", "quick_gelu")
_INNER = re.compile(r"^vision_model\.")  # one level that earlier transformers releases have


class TowerWeights:
    """Weights of a tower by canonical name (`encoder.layers.0.mlp.fc1.weight`), read when asked for."""

    def __init__(self, files: TowerFiles, shape: TowerShape, changes: Mapping[str, Change]) -> None:
        self.shape = shape
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
            shape = files.shape()
        if shape.activation not in ACTIVATIONS:
            raise CheckpointError(
                f"{base}: the tower's activation is {shape.activation}; without PyTorch a device has "
                f"{', '.join(ACTIVATIONS)}: encode with tofc[edge]"
            )
        if not shape.depth:
            raise CheckpointError(f"{base}: vision_feature_layer asks for the state before the first block")
        found = [] if adapters is None else read_adapters(adapters, TOWER)
        changes = {_INNER.sub("", change.name): change for change in found}
        for name in changes.keys() - files.weights.keys():
            assert adapters is not None
            raise foreign(adapters, name)
        return cls(files, shape, changes)

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


_PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # in the order in which they count
_KINDS = (
    "LlavaOnevisionImageProcessor",
    "LlavaOnevisionImageProcessorFast",
    "LlavaOnevisionImageProcessorPil",
)


def describe(checkpoint: Checkpoint, weights: TowerWeights, codec: FeatureCodec | None) -> DeviceConfig:
    """All that a device has to know beside weights and codec.

    Raises CheckpointError for a base that is no LLaVA-OneVision model, or whose processor has steps not
    known here.
    """
    raw = read_json(fetch(checkpoint.base, CONFIG_NAME))
    if raw.get("model_type") != "llava_onevision":
        raise CheckpointError(
            f"{checkpoint.base} is a model of type {raw.get('model_type')!r}; the base must be a "
            "LLaVA-OneVision model (llava_onevision)"
        )
    shape = weights.shape
    pinpoints = raw.get("image_grid_pinpoints")
    if not pinpoints:
        raise CheckpointError(
            f"{checkpoint.base}: its config names no image_grid_pinpoints; add the stock ones"
        )
    return DeviceConfig(
        made_from=Path(checkpoint.name).resolve().name if Path(checkpoint.name).is_dir() else checkpoint.name,
        model_tag="" if codec is None else codec.fingerprint[:TAG_BYTES].hex(),
        width=shape.width,
        geometry=Geometry(shape.image_size, shape.patch_size, tuple((int(h), int(w)) for h, w in pinpoints)),
        pixels=_pixels(checkpoint.base, shape.image_size),
        tiling=checkpoint.config.tiling,
        merging=checkpoint.config.merging,
        default_quality=checkpoint.config.default_quality,
    )


def _pixels(base: str, side: int) -> PixelConfig:
    """What the processor does to pixels; CheckpointError where that is more than a device does."""
    values = _processor(base)
    size: Mapping[str, Any] = values.get("size") or {}
    asked = {name: values.get(name, True) for name in ("do_resize", "do_rescale", "do_normalize")}
    crops = bool(values.get("do_center_crop"))
    kind = values.get("image_processor_type", _KINDS[0])
    missing = [name for name in ("image_mean", "image_std", "size") if not values.get(name)]
    plain = all(asked.values()) and not crops and kind in _KINDS and not missing
    if not plain or (size.get("height"), size.get("width")) != (side, side):
        raise CheckpointError(
            f"{base}: the image processor ({kind}) does more or less than resizing to {side}x{side}, "
            f"rescaling and normalising (size {dict(size)}, {asked}, do_center_crop {crops}, without "
            f"{missing}): a device without PyTorch cannot do the same"
        )
    return PixelConfig(
        image_mean=tuple(float(value) for value in values["image_mean"]),
        image_std=tuple(float(value) for value in values["image_std"]),
        rescale_factor=float(values.get("rescale_factor", 1 / 255)),
        resample=int(values.get("resample", BICUBIC)),
    )


def _processor(base: str) -> Mapping[str, Any]:
    """The image processor's settings, from whichever file transformers would take them."""
    for name in _PROCESSORS:
        with checkpoint_faults():
            file = files.find(base, name)
        if file is None:
            continue
        values = read_json(file)
        if name == _PROCESSORS[1]:
            return values
        nested = values.get("image_processor")
        if isinstance(nested, dict):
            return nested
    raise CheckpointError(f"{base} has no {_PROCESSORS[1]}: get the whole checkpoint")
