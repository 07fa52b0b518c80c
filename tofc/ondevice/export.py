"""Writing a device: the tower as ONNX in the precision asked for, the codec, how to prepare pixels.

Weights go from the checkpoint's file into the graph's one after another, and the export is tried before it
gets its name; no more than a block of the tower is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofc.config import resolve
from tofc.errors import CheckpointError, MissingLibraryError, UserError
from tofc.hub import load_codec
from tofc.images import open_image
from tofc.ondevice import is_export
from tofc.ondevice.checkpoint import (
    PRECISIONS,
    TOWER_FILE,
    DeviceConfig,
    TowerWeights,
    describe,
    write_device_config,
)
from tofc.ondevice.pixels import cut
from tofc.ondevice.vision import start
from tofc.writing import whole_folder, write_whole

TOLERANCE = 1e-3  # the largest difference of a feature that a float32 export may have
_LEAST = {"float16": 40.0, "int8": 15.0}  # dB of the features below which nothing is written
_MOST_PICTURES = 8  # more teach nothing about ranges, and their features are in memory at once
_INSIDE = 1 << 26  # bytes of weights above which they lie in a second file, which can be mapped


@dataclass(frozen=True)
class Export:
    """What an export lost: the largest difference of a feature from float32, and the features' SNR in dB.

    `losses` has an entry for each matrix product (`tofc.ondevice.calibration.Loss`) of an int8 export.
    """

    largest_difference: float
    snr: float
    losses: tuple[Any, ...] = ()


def export_device(
    src: str | Path,
    folder: str | Path,
    *,
    precision: str = "float32",
    pictures: Sequence[Any] = (),
    least_snr: float | None = None,
    replace_old: bool = False,
) -> Export:
    """Writes the device side of the checkpoint `src` into `folder`, which appears complete or not at all.

    precision: "float32" (weights that the checkpoint has in two bytes stay so), "float16" (all are rounded to
    that), or "int8": matrix products of 8-bit integers, but for those that have less than `least_snr` dB on
    `pictures` (paths or images; made up where none are given). Whatever it is, features come in float32, and
    every edge that has the checkpoint reads the packets. `replace_old` lets it replace an older export.

    Raises CheckpointError where the written tower does not do what the checkpoint's does, and for a
    checkpoint without codec or with a processor or tower that has steps not known here, UserError for a
    folder that holds something else, MissingLibraryError without onnx and onnxruntime.
    """
    _require_libraries()
    folder = Path(folder)
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if folder.exists() and any(folder.iterdir()) and not (replace_old and is_export(folder)):
        hint = "say so with --replace" if is_export(folder) else "give another folder, or empty it"
        raise UserError(f"{folder} is not empty: {hint}")
    if is_export(src):
        raise CheckpointError(f"{src} is an export itself; give the checkpoint that it was made from")
    checkpoint = resolve(src)
    codec = load_codec(checkpoint)
    weights = TowerWeights.open(checkpoint.base, checkpoint.adapters)
    config = replace(describe(checkpoint, weights, codec), precision=precision)
    with whole_folder(folder) as draft:
        done = write_tower(weights, draft / TOWER_FILE, config, pictures, least_snr)
        codec.save(draft)
        write_device_config(draft, config)
    return done


def write_tower(
    weights: TowerWeights,
    file: Path,
    config: DeviceConfig,
    pictures: Sequence[Any] = (),
    least_snr: float | None = None,
) -> Export:
    """Writes a tower's graph, and its weights beside it where they are large; tries both on the pictures.

    Raises CheckpointError where the features differ by more than the precision explains.
    """
    from tofc.ondevice.calibration import LEAST_SNR, calibrate, decibels, made_pictures, run_blocks
    from tofc.ondevice.graph import TowerGraph

    opened = [open_image(picture) for picture in pictures[:_MOST_PICTURES]] or [
        Image.fromarray(picture) for picture in made_pictures(weights.shape.image_size)
    ]
    pixels = np.concatenate([cut(picture, "base", config.geometry, config.pixels) for picture in opened])
    is_int8 = config.precision == "int8"
    losses, smoothing = [], {}
    for index, seen in enumerate(run_blocks(weights, pixels)):
        features = seen["after"]
        if not is_int8:
            continue
        for loss, divisors in calibrate(weights, index, seen, LEAST_SNR if least_snr is None else least_snr):
            losses.append(loss)
            if not loss.stays_float:
                smoothing[loss.name] = divisors
    del seen
    features = features[:, 1:] if weights.shape.drop_cls else features
    draft = file.with_name(f"{file.name}.data")  # of a folder that is one itself
    with draft.open("wb") as stream:
        beside = stream if 2 * weights.shape.block_parameters > _INSIDE else None
        writer = TowerGraph(weights, smoothing, half=config.precision == "float16", data=beside)
        write_whole(file, writer.tower().SerializeToString())
    if beside is None:
        draft.unlink()
    made = _run_in_parts(file, writer.states, pixels)
    difference, snr = float(np.abs(made - features).max()), decibels(features, made)
    right = difference <= TOLERANCE if config.precision == "float32" else snr >= _LEAST[config.precision]
    if not right:
        raise CheckpointError(
            f"the tower written in {config.precision} gives features that differ by {difference:.2g} "
            f"({snr:.1f} dB) from what its weights say: nothing was written. Report it with the version of "
            "onnxruntime"
        )
    return Export(difference, snr, tuple(losses))


def _run_in_parts(file: Path, states: Sequence[str], pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features that a written graph gives, cut at its states: one block is in memory at a time."""
    import onnx

    whole = onnx.utils.Extractor(onnx.load(file, load_external_data=False))
    part = file.with_name("part.onnx")  # beside the file with the weights
    ends = ("pixels", *states, "features")
    values = pixels
    for before, after in pairwise(ends):
        write_whole(part, whole.extract_model([before], [after]).SerializeToString())
        (values,) = start(part, str(file)).run([after], {before: values})
    part.unlink()
    return values


def _require_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f"exporting a device needs {error.name}, which is not installed: pip install 'tofc[device]'"
        ) from error
