"""What a codec is made of: integer networks, tables and transforms, checked, and as a file.

Source: AI Flow (arXiv 2506.12479), section II-B1. docs/bitstream.md says what each part is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from entropy.integer import FixedPointMatrix, IntegerNetwork, take
from entropy.stream import HYPER_LIMIT, MAX_LEVELS
from entropy.tables import NUM_SCALES, RansTables

FILE_NAME = "codec-integer.safetensors"
_LFS = b"version https://git-lfs.github.com/spec/"
FORMAT = {"format": "tofc-codec-integer", "version": "1"}
P = TypeVar("P", bound="CodecParameters")


@dataclass(frozen=True, eq=False)
class CodecParameters:
    """The parameters of a codec; ValueError for such as do not belong together.

    center: float64 [C]; forward, inverse: the transform into decorrelated coefficients and back; gains:
    float64 [levels, C], coefficients are multiplied by their row before rounding; router, analysis, trunk,
    scale, mean: integer networks, the last four one for each expert; tables: 64 Laplacian tables, then
    router tables [levels, E + 1], then hyperprior tables [levels, E, D]; offsets: float64 [64], see
    `tables.reconstruction_offsets`; dead_zone: float64 [1].
    """

    center: NDArray[np.float64]
    forward: FixedPointMatrix
    inverse: FixedPointMatrix
    gains: NDArray[np.float64]
    router: IntegerNetwork
    analysis: tuple[IntegerNetwork, ...]
    trunk: tuple[IntegerNetwork, ...]
    scale: tuple[IntegerNetwork, ...]
    mean: tuple[IntegerNetwork, ...]
    tables: RansTables
    offsets: NDArray[np.float64]
    dead_zone: NDArray[np.float64]

    def __post_init__(self) -> None:
        width, experts, levels = self.width, self.num_experts, len(self.gains)
        if self.gains.shape != (levels, width) or not self.gains.min() > 0:
            raise ValueError(f"gains must be positive, [levels, {width}]; they are {self.gains.shape}")
        if not len(self.trunk) == len(self.scale) == len(self.mean) == experts or experts < 1:
            raise ValueError("every expert needs an analysis, a trunk, a scale and a mean network")
        if levels > MAX_LEVELS:
            raise ValueError(f"codec with {levels} quality levels; streams can name {MAX_LEVELS}")
        expected = NUM_SCALES + levels * (experts + 1 + experts * self.hyper_width)
        if self.tables.num_tables != expected:
            raise ValueError(f"codec with {self.tables.num_tables} tables, its shape asks for {expected}")
        if (
            self.offsets.shape != (NUM_SCALES,)
            or self.dead_zone.shape != (1,)
            or not 0 <= self.dead_zone[0] < 0.5
        ):
            raise ValueError("codec with impossible reconstruction offsets or dead zone")
        row_reach = (
            np.abs(self.forward.weight.astype(np.float64)).sum(axis=1)
            * self.forward.scale
            * self.forward.reach
        )
        if float((row_reach * self.gains).max()) > 2.0**31 - 2.0**24:  # means take half of the rest at most
            raise ValueError("codec whose gains could carry a symbol out of int32")
        largest = float(np.abs(self.center).max())
        if not largest < min(np.finfo(np.float32).max / 2, self.forward.reach / np.finfo(np.float32).eps):
            raise ValueError("codec whose center leaves what features in float32 can tell apart")
        if self.forward.weight.shape != (width, width) or self.inverse.weight.shape != (width, width):
            raise ValueError(f"codec whose transforms are not [{width}, {width}]")
        self.router.check(width, experts, levels, "the router")
        for analysis, trunk, mean in zip(self.analysis, self.trunk, self.mean, strict=True):
            analysis.check(width, self.hyper_width, levels, "an analysis")
            _, low, high = (int(bound) for bound in analysis.layers[-1].bounds)
            if max(-low, high) > HYPER_LIMIT:
                raise ValueError(f"codec whose analysis gives more than {HYPER_LIMIT}, which no stream holds")
            IntegerNetwork((*trunk.layers, *mean.layers)).check(
                self.hyper_width, width, levels, "a trunk with its mean network"
            )

    @property
    def width(self) -> int:
        """Width C of the features it codes."""
        return int(self.center.size)

    @property
    def num_experts(self) -> int:
        """Number of entropy models, E."""
        return len(self.analysis)

    @property
    def hyper_width(self) -> int:
        """Hyperprior values of one token, D."""
        return int(self.analysis[0].layers[-1].weight.shape[0])

    @property
    def qualities(self) -> range:
        """Quality levels, from fewest bytes to best."""
        return range(1, len(self.gains) + 1)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that tell this codec from any other: SHA-256 over names, types, shapes and values, cut."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors().items()):
            little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{name}:{value.dtype.kind}{value.dtype.itemsize}:{value.shape};".encode())
            digest.update(little.tobytes())
        return digest.digest()[:8]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The codec as named arrays."""
        named: dict[str, NDArray[Any]] = {
            "center": self.center,
            "gains": self.gains,
            "offsets": self.offsets,
            "dead_zone": self.dead_zone,
            "tables.frequencies": self.tables.frequencies,
            "tables.sizes": self.tables.sizes,
            "tables.minimum": self.tables.minimum,
            **self.forward.tensors("forward"),
            **self.inverse.tensors("inverse"),
            **self.router.tensors("router"),
        }
        for kind in ("analysis", "trunk", "scale", "mean"):
            for expert, network in enumerate(getattr(self, kind)):
                named |= network.tensors(f"{kind}.{expert}")
        return named

    @classmethod
    def from_tensors(cls: type[P], tensors: Mapping[str, NDArray[Any]]) -> P:
        """The codec that `tensors` gave; KeyError or ValueError where it is not whole."""
        experts = len({name.split(".")[1] for name in tensors if name.startswith("analysis.")})
        networks = {
            kind: tuple(IntegerNetwork.from_tensors(tensors, f"{kind}.{expert}") for expert in range(experts))
            for kind in ("analysis", "trunk", "scale", "mean")
        }
        return cls(
            center=take(tensors, "center", 1, np.float64),
            forward=FixedPointMatrix.from_tensors(tensors, "forward"),
            inverse=FixedPointMatrix.from_tensors(tensors, "inverse"),
            gains=take(tensors, "gains", 2, np.float64),
            router=IntegerNetwork.from_tensors(tensors, "router"),
            tables=RansTables(
                take(tensors, "tables.frequencies", 1, np.uint16),
                take(tensors, "tables.sizes", 1, np.int32),
                take(tensors, "tables.minimum", 1, np.int32),
            ),
            offsets=take(tensors, "offsets", 1, np.float64),
            dead_zone=take(tensors, "dead_zone", 1, np.float64),
            **networks,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the codec into a folder as codec-integer.safetensors; returns the file."""
        return write_tensors(Path(folder) / FILE_NAME, self.tensors())

    @classmethod
    def load(cls: type[P], folder: str | Path) -> P:
        """Read a codec from a folder, or from the file itself.

        Raises FileNotFoundError where there is none, ValueError where it is not a whole codec.
        """
        path = Path(folder)
        path = path / FILE_NAME if path.is_dir() else path
        try:
            return cls.from_tensors(read_tensors(path))
        except (KeyError, IndexError) as error:
            raise ValueError(f"{path} is not a whole codec: {error} is missing") from error


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> Path:
    """Write the arrays of a codec; the file appears whole or not at all. Returns the path."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    # Through bytes: safetensors' own writer makes files that only their owner can read.
    draft.write_bytes(save({name: np.ascontiguousarray(v) for name, v in tensors.items()}, metadata=FORMAT))
    draft.replace(path)
    return path


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a codec.

    Raises FileNotFoundError where there is no file, ValueError where it is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no codec at {path}: a checkpoint holds {FILE_NAME}; `tofc train` makes it")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if {key: metadata.get(key) for key in FORMAT} != FORMAT:
                raise ValueError(f"{path} is not {FORMAT['format']} version {FORMAT['version']}: {metadata}")
            return {name: file.get_tensor(name) for name in list(file.keys())}
    except SafetensorError as error:
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise ValueError(f"{path} is a Git LFS pointer, not the file: run git lfs pull") from error
        raise ValueError(f"{path} is damaged: {error}") from error
