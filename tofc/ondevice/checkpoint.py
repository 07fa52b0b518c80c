"""The device side of a whole checkpoint, read without torch: weights, pixels, shape and codec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders import files
from entropy import FeatureCodec
from tofc.config import CONFIG_NAME, Checkpoint
from tofc.errors import CheckpointError
from tofc.hub import checkpoint_faults, fetch, read_json
from tofc.ondevice.config import DeviceConfig, PixelConfig
from tofc.ondevice.pixels import check_filter
from tofc.ondevice.weights import TowerWeights
from tofc.packet import TAG_BYTES
from tofc.tiling import Geometry

_PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # in the order in which they count
_KINDS = (
    "LlavaOnevisionImageProcessor",
    "LlavaOnevisionImageProcessorFast",
    "LlavaOnevisionImageProcessorPil",
)


def read_weights(checkpoint: Checkpoint) -> TowerWeights:
    """The tower's weights, with the checkpoint's adapters; they are read when they are asked for."""
    return TowerWeights.open(checkpoint.base, checkpoint.adapters)


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
    resample = int(values.get("resample", 3))
    check_filter(resample)
    return PixelConfig(
        image_mean=tuple(float(value) for value in values["image_mean"]),
        image_std=tuple(float(value) for value in values["image_std"]),
        rescale_factor=float(values.get("rescale_factor", 1 / 255)),
        resample=resample,
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
