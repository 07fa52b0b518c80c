"""Writing a device that needs no torch: the tower as ONNX, the integer codec, how to prepare pixels.

torch, onnx and onnxscript are needed here alone; the folder that comes out is run by ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from entropy import FeatureCodec
from tofc.device import Device
from tofc.errors import CheckpointError, MissingLibraryError, UserError
from tofc.ondevice import is_export, load_export
from tofc.ondevice.compact import compact
from tofc.ondevice.config import TOWER_FILE, DeviceConfig, PixelConfig, write_device_config
from tofc.ondevice.resample import check_filter
from tofc.packet import TAG_BYTES
from tofc.tiling import Geometry
from tofc.vision import TorchVision
from tofc.writing import whole_folder

TOLERANCE = 1e-3  # the largest difference of a feature that an export may have from torch


def export_device(src: str | Path, folder: str | Path, *, replace: bool = False) -> float:
    """Writes the device side of the checkpoint `src` into `folder`, which appears complete or not at all.

    An older export in the same place is replaced if `replace` says so. Before the folder gets its name, ONNX
    Runtime and torch see the same random pixels; returns their largest difference.

    Raises CheckpointError where that is above `TOLERANCE`, and for a checkpoint without codec or with a
    processor that has steps not known here, UserError for a folder that holds something else,
    MissingLibraryError without onnx, onnxscript and onnxruntime.
    """
    _require_exporters()
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (replace and is_export(folder)):
        hint = "say so with --replace" if is_export(folder) else "give another folder, or empty it"
        raise UserError(f"{folder} is not empty: {hint}")
    device = Device.from_pretrained(src, dtype="float32")
    if device.codec is None or not isinstance(device.vision, TorchVision):
        raise CheckpointError(f"{src} has no codec or is an export itself; give a checkpoint of tofc")
    config = _describe(src, device, device.vision, device.codec)
    with whole_folder(folder) as draft:
        write_tower(device.vision, draft / TOWER_FILE)
        device.codec.save(draft)
        write_device_config(draft, config)
        difference = _difference(device.vision, Device(*load_export(draft)), config.geometry.image_size)
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"the exported tower of {src} differs from torch by {difference:.2g}, more than "
                f"{TOLERANCE:g}: nothing was written. Report it with the versions of torch and onnxruntime"
            )
    return difference


def write_tower(vision: TorchVision, file: Path) -> None:
    """The tower as an ONNX graph from "pixels" [T, 3, S, S] to "features" [T, N, C], both float32."""
    side = vision.encoder.image_size
    # Two tiles: a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, side, side)
    program = torch.onnx.export(
        vision.encoder,
        (example,),
        input_names=["pixels"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("tiles")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # with dynamo it is what comes back
    compact(program.model_proto, file)


def _require_exporters() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f"exporting a device needs {error.name}, which is not installed: pip install 'tofc[export]'"
        ) from error


def _describe(src: str | Path, device: Device, vision: TorchVision, codec: FeatureCodec) -> DeviceConfig:
    return DeviceConfig(
        made_from=Path(src).resolve().name if Path(src).is_dir() else str(src),
        model_tag=codec.fingerprint[:TAG_BYTES].hex(),
        width=vision.width,
        geometry=Geometry.of(vision.base_config),
        pixels=_pixels(vision.image_processor, vision.encoder.image_size),
        tiling=device.config.tiling,
        merging=device.config.merging,
        default_quality=device.config.default_quality,
    )


def _pixels(processor: Any, side: int) -> PixelConfig:
    """What the processor does to pixels; CheckpointError where that is more than a device does."""
    size: Mapping[str, Any] = dict(processor.size)
    asked = {name: getattr(processor, name) for name in ("do_resize", "do_rescale", "do_normalize")}
    plain = all(asked.values()) and not processor.do_center_crop
    if not plain or (size.get("height"), size.get("width")) != (side, side):
        raise CheckpointError(
            f"the image processor does more or less than resizing to {side}x{side}, rescaling and "
            f"normalising (size {size}, {asked}, do_center_crop {processor.do_center_crop}): such a device "
            "cannot be exported"
        )
    check_filter(int(processor.resample))
    return PixelConfig(
        image_mean=tuple(float(value) for value in processor.image_mean),
        image_std=tuple(float(value) for value in processor.image_std),
        rescale_factor=float(processor.rescale_factor),
        resample=int(processor.resample),
    )


def _difference(vision: TorchVision, exported: Device, side: int) -> float:
    """The largest difference of features of the same pixels, between torch and ONNX Runtime."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    tiles = exported.vision.cut([Image.fromarray(values)], "base")
    ours = vision.see([torch.from_numpy(tile) for tile in tiles])[0].cpu().numpy()
    return float(np.abs(exported.vision.see(tiles)[0] - ours).max())
