"""What the photographs' tower learns from: views of photographs, with the teacher's maps and the boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eval.photos.facts import View, patches, presence
from eval.photos.names import COCO
from eval.photos.records import WHOLE, Region, photographs_folder
from eval.photos.teacher import (
    CLASSES,
    SIDE,
    STRIDE_16,
    STRIDE_32,
    PhotoCache,
    classify,
    read_cache,
    write_cache,
)
from tofc.training.data import GroundedPicture

SETS = (
    "voc",
    "voc2012-animals",
    "coco",
    "coco-more",
    "caltech101",
    "imagenet-samples",
    "flickr8k",
    "daquar",
    "imagenette",
)
SPLITS = {"train": "train", "validation": "val"}


class TowerCorpus:
    """Views of the photographs of `sets` below `root`, decoded and shown to the teacher once, in `cache`.

    A share of `boxed` of the pictures comes from the sets with boxes. `sizes` maps the number of a picture to
    the side, in pixels, of that and all later ones ("0" is needed); the patch stays `patch` pixels wide. A
    training view has an area of at least `least_crop` of its photograph's.
    """

    sparse_labels = frozenset({"kind"})
    region_size = 4  # centre x, centre y, width, height: fractions of the view
    label_classes = {"kind": len(COCO) + 1}  # noqa: RUF012 - a constant of the protocol
    map_sizes = {"stride_16": STRIDE_16, "stride_32": STRIDE_32}  # noqa: RUF012 - a constant of the protocol
    num_present = len(COCO)
    num_categories = CLASSES

    def __init__(
        self,
        cache: str,
        sizes: dict[str, int],
        root: str | None = None,
        sets: Sequence[str] = SETS,
        patch: int = 16,
        boxed: float = 0.45,
        least_crop: float = 0.3,
    ) -> None:
        self.folder, self.patch, self.boxed, self.least_crop = Path(cache), patch, boxed, least_crop
        self.root = Path(root) if root is not None else photographs_folder()
        self.sizes = sorted((int(start), size) for start, size in sizes.items())
        self._cache: PhotoCache | None = None
        if not (self.folder / "index.json").exists():
            write_cache(self.root, sets, self.folder, _show)
        photos, splits = self.cache.photos, self.cache.splits
        has_boxes = [any(thing.box for thing in photo.things) for photo in photos]
        self.numbers = {
            split: [
                [i for i, of in enumerate(splits) if of == name and has_boxes[i] == boxes]
                for boxes in (True, False)
            ]
            for split, name in SPLITS.items()
        }

    @property
    def cache(self) -> PhotoCache:
        """The photographs, opened on first use: loader processes open their own."""
        if self._cache is None:
            self._cache = read_cache(self.root, self.folder)
        return self._cache

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": None}

    def num_pictures(self, split: str) -> int | None:
        """None for training, where each number is another view; the photographs with boxes for validation."""
        return None if split == "train" else len(self.numbers[split][0])

    def texts(self, count: int, seed: int) -> Iterator[str]:
        """The classes' names: nobody is asked anything yet."""
        for number in range(count):
            yield COCO[number % len(COCO)]

    def picture(self, split: str, index: int, seed: int) -> GroundedPicture:
        """View `index`; of the validation photographs the whole, at the largest size."""
        boxed, others = self.numbers[split]
        if split != "train":
            return self._grounded(boxed[index], WHOLE, False, self.sizes[-1][1], None)
        rng = np.random.default_rng([seed, index])
        pool = boxed if not others or (boxed and rng.random() < self.boxed) else others
        number = pool[int(rng.integers(len(pool)))]
        size = [side for start, side in self.sizes if start <= index][-1]
        return self._grounded(number, *draw_crop(rng, self.least_crop), size, rng)

    def _grounded(
        self, number: int, crop: Region, flip: bool, size: int, rng: np.random.Generator | None
    ) -> GroundedPicture:
        cache, side = self.cache, size // self.patch
        pixels = cut(cache.pixels[number], crop, flip, size)
        if rng is not None:
            pixels = recoloured(pixels, rng)
        maps = {name: cut_map(getattr(cache, name)[number], crop, flip, side) for name in self.map_sizes}
        distribution = classify(cache.head, maps["stride_32"])
        for name, values in maps.items():
            maps[name] = (values - cache.moments[f"{name}_mean"]) / cache.moments[f"{name}_deviation"]
        view = View(cache.photos[number], crop, flip)
        kind, regions = patches(view, side)
        return GroundedPicture(pixels, {"kind": kind}, regions, (), maps, presence(view), distribution)


def draw_crop(rng: np.random.Generator, smallest: float) -> tuple[Region, bool]:
    """A random part with an area of `smallest` to 1, a little narrower or wider, and whether to mirror it."""
    share, stretch = rng.uniform(smallest, 1.0), np.exp(rng.uniform(-0.25, 0.25))
    width, height = min(1.0, np.sqrt(share * stretch)), min(1.0, np.sqrt(share / stretch))
    x0, y0 = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return (x0, y0, x0 + width, y0 + height), bool(rng.random() < 0.5)


def cut(pixels: np.ndarray, crop: Region, flip: bool, size: int) -> np.ndarray:
    """A part of uint8 [SIDE, SIDE, 3] as uint8 [3, size, size]."""
    x0, y0, x1, y1 = (edge * SIDE for edge in crop)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    array = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)))
    return np.ascontiguousarray((array[:, ::-1] if flip else array).transpose(2, 0, 1))


def recoloured(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other brightness, contrast and saturation; a tenth of the pictures lose their colours."""
    planes = pixels.astype(np.float32)
    grey = planes.mean(0, keepdims=True)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.6, 1.4)
    planes = grey + (planes - grey) * saturation
    mean = planes.mean()
    planes = (planes - mean) * rng.uniform(0.7, 1.3) + mean * rng.uniform(0.75, 1.25)
    return np.clip(planes, 0, 255).astype(np.uint8)


def cut_map(values: np.ndarray, crop: Region, flip: bool, side: int) -> np.ndarray:
    """A part of a map [G, G, C] at side x side places: float32 [side * side, C]."""
    grid = values.shape[0]
    rows = _averages(crop[1], crop[3], side, grid)
    columns = _averages(crop[0], crop[2], side, grid)
    if flip:
        columns = columns[::-1]
    tall = np.tensordot(rows, values.astype(np.float32), (1, 0))  # [side, G, C]
    part = np.einsum("sg,rgc->rsc", columns, tall, optimize=True)
    return np.ascontiguousarray(part.reshape(side * side, -1))


def _averages(start: float, stop: float, side: int, grid: int) -> np.ndarray:
    """[side, grid] weights that read a map of `grid` cells at `side` places between `start` and `stop`.

    Triangles as wide as a cell or as a place, whichever is larger: interpolation up, averages down.
    """
    places = (start + (np.arange(side) + 0.5) / side * (stop - start)) * grid - 0.5
    distance = np.abs(places[:, None] - np.arange(grid))
    weights = np.clip(1.0 - distance / max(1.0, (stop - start) * grid / side), 0.0, None)
    result: np.ndarray = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return result


def _show(done: int, count: int) -> None:
    print(f"the teacher has seen {done} of {count} photographs", flush=True)
