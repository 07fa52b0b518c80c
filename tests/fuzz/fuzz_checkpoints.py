"""Coverage-guided fuzzing of checkpoints from strangers: `make fuzz TARGET=checkpoints`.

An input's first byte says which file of a checkpoint the rest of it is, or in which array of a codec it is
put. Whatever it is, the readers give what they promise or raise the errors that they promise; a codec that is
accepted codes, and decodes to what it reconstructs. What transformers itself reads is not tried here.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    import atheris  # before what it instruments

    sys.path.insert(0, str(Path(__file__).parents[2]))

    KERNELS = ["entropy.kernels", "encoders.merging_search", "encoders.merging_peaks"]  # numba compiles these
    with atheris.instrument_imports(include=["entropy", "encoders", "tofc"], exclude=KERNELS):
        for name in ("tofc.familial.store", "tofc.ondevice.checkpoint"):  # and what they import
            importlib.import_module(name)

import numpy as np

from encoders.files import INDEX, read_tensors
from entropy import FeatureCodec
from entropy.parameters import FILE_NAME
from tofc.config import CONFIG_NAME, DEVICE_CONFIG, resolve
from tofc.errors import UserError
from tofc.familial.store import read_index
from tofc.ondevice.checkpoint import read_device_config

GOLDEN = Path(__file__).parents[1] / "entropy" / "golden"
ASSET = Path(__file__).parents[2] / "tofc" / "assets" / "scenes-tiny"
FAMILY = "family.json"
WEIGHTS = "model.safetensors"


@functools.cache
def folder() -> Path:
    """A folder for this process, with a base and one shard."""
    found = tempfile.TemporaryDirectory()
    path = Path(found.name)
    (path / "base").mkdir()
    (path / "shard.safetensors").write_bytes(tensors_file())
    _kept.append(found)
    return path


_kept: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends


@functools.cache
def tensors_file() -> bytes:
    from safetensors.numpy import save

    return save({"a": np.zeros(2, np.float32), "b": np.ones((1, 2), np.float16)})


def check(data: bytes) -> bool:
    """Whether an input is accepted; raises AssertionError, or anything, where our code is wrong."""
    kind, rest = KINDS[data[0] % len(KINDS) if data else 0], data[1:]
    try:
        return kind(rest)
    except (UserError, FileNotFoundError, ValueError):  # what the rooms promise
        return False


def given(name: str, content: bytes) -> Path:
    for other in (CONFIG_NAME, DEVICE_CONFIG, FAMILY, INDEX, WEIGHTS, FILE_NAME):
        (folder() / other).unlink(missing_ok=True)
    (folder() / name).write_bytes(content)
    return folder()


def config(content: bytes) -> bool:
    found = resolve(given(CONFIG_NAME, content))
    assert found.adapters is None or found.adapters.is_relative_to(folder())
    assert found.family is None or found.family.is_relative_to(folder())
    return True


def device(content: bytes) -> bool:
    return read_device_config(given(DEVICE_CONFIG, content)).width is not None


def family(content: bytes) -> bool:
    return bool(read_index(given(FAMILY, content)).roster.names)


def index(content: bytes) -> bool:
    return len(list(read_tensors(given(INDEX, content), lambda name: True))) > 0


def weights(content: bytes) -> bool:
    return len(list(read_tensors(given(WEIGHTS, content), lambda name: True))) > 0


def codec_file(content: bytes) -> bool:
    return codes(FeatureCodec.load(given(FILE_NAME, content)), content)


@functools.cache
def golden_tensors() -> dict[str, np.ndarray]:
    return FeatureCodec.load(GOLDEN).tensors()


def codec_array(content: bytes) -> bool:
    """An array of a good codec, spoiled: its number, what is done to it, where, and the bytes put there."""
    if len(content) < 4:
        return False
    tensors = dict(golden_tensors())
    name = sorted(tensors)[content[0] % len(tensors)]
    value, at, put = tensors[name], int.from_bytes(content[2:4], "big"), content[4:]
    if content[1] % 4 == 0:
        raw = bytearray(value.tobytes())
        at %= max(1, len(raw) - len(put) + 1)
        raw[at : at + len(put)] = put[: len(raw) - at]
        spoiled = np.frombuffer(bytes(raw), value.dtype).reshape(value.shape)
    elif content[1] % 4 == 1:
        spoiled = value.reshape(-1)[: at % (value.size + 1)]
    elif content[1] % 4 == 2:
        spoiled = value.astype([np.float64, np.int64, np.int8, np.uint8, np.int32, np.float32][at % 6])
    else:
        spoiled = np.roll(value, at) if at % 2 else value.T
    try:
        return codes(FeatureCodec.from_tensors({**tensors, name: spoiled}), content)
    except KeyError:
        return False


def codes(codec: FeatureCodec, content: bytes) -> bool:
    """What an accepted codec promises: no error, and the same at both ends; at one of its qualities."""
    features = np.repeat(codec.center.astype(np.float32)[None], 3, axis=0)
    quality = codec.qualities[zlib.crc32(content) % len(codec.qualities)]
    try:
        decoded = codec.decode(codec.encode(features, quality))
    except ValueError as error:
        raise AssertionError(f"a codec was accepted that cannot code: {error}") from error
    assert np.array_equal(decoded, codec.reconstruct(features, quality))
    assert np.isfinite(decoded).all()
    return True


KINDS: tuple[Callable[[bytes], bool], ...] = (
    config, device, family, index, weights, codec_array, codec_file,
)  # fmt: skip


def seeds() -> list[bytes]:
    """One good file of each kind, and a codec with one array as it was."""
    geometry = {"image_size": 112, "patch_size": 16, "image_grid_pinpoints": [[112, 112]]}
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    exported = {"made_from": "x", "model_tag": "00aa11", "width": 8, "geometry": geometry, "pixels": pixels}
    weight_map = {"weight_map": {"a": "shard.safetensors", "b": "shard.safetensors"}}
    files = [
        (ASSET / CONFIG_NAME).read_bytes(),
        json.dumps(exported).encode(),
        (ASSET / "family" / FAMILY).read_bytes(),
        json.dumps(weight_map).encode(),
        tensors_file(),
        bytes(4),
        (GOLDEN / FILE_NAME).read_bytes(),
    ]
    return [bytes([kind]) + file for kind, file in enumerate(files)]


def found() -> list[bytes]:
    """What fuzzing found: an analysis beyond what streams hold, a center beyond what float32 resolves."""
    names = sorted(golden_tensors())
    cases = [
        ("analysis.0.1.bounds", 8, np.int32(128).tobytes()),
        ("center", 0, np.float64(2.84e12).tobytes()),
    ]
    return [
        bytes([KINDS.index(codec_array), names.index(name), 0]) + at.to_bytes(2, "big") + put
        for name, at, put in cases
    ]


def fuzz_one(data: bytes) -> None:
    """One input of the fuzzer."""
    check(data)


if __name__ == "__main__":
    for number, seed in enumerate(seeds()):
        Path(sys.argv[-1], f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
