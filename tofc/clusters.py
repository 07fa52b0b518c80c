"""Token clusters over the picture they were made of: where tiles lie, mean colours, and the seams between."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Left, top, width and height in pixels of a picture; a padded tile begins outside of it.
Box = tuple[float, float, float, float]


def tile_box(size: tuple[int, int], tiling: str) -> Box:
    """Where the base tile lies on a picture of (width, height) under a packet's tiling."""
    width, height = size
    if tiling != "padded":
        return 0.0, 0.0, float(width), float(height)
    side = float(max(size))
    return (width - side) / 2, (height - side) / 2, side, side


def clusters_of_pixels(image: Image.Image, assignment: NDArray[np.int64], box: Box) -> NDArray[np.int64]:
    """The cluster of each pixel, [height, width], from that of each patch, [rows, columns]."""
    left, top, width, height = box
    rows, columns = assignment.shape
    row = (np.arange(image.height) + 0.5 - top) * rows / height
    column = (np.arange(image.width) + 0.5 - left) * columns / width
    return assignment[row.astype(int)[:, None], column.astype(int)]


def mean_colours(
    image: Image.Image, assignment: NDArray[np.int64], clusters: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The mean colour of each cluster of an assignment, [K, 3]; grey where it has no pixel in `clusters`."""
    pixels = np.asarray(image.convert("RGB"), np.float64).reshape(-1, 3)
    num_clusters = int(assignment.max()) + 1
    counts = np.bincount(clusters.ravel(), minlength=num_clusters)[:, None]
    sums = [np.bincount(clusters.ravel(), channel, num_clusters) for channel in pixels.T]
    means = np.where(counts > 0, np.stack(sums, axis=-1) / np.maximum(counts, 1), 128.0)
    return means.round().astype(np.uint8)


def tinted(image: Image.Image, assignment: NDArray[np.int64], box: Box, strength: float) -> Image.Image:
    """The picture with every patch tinted with the mean colour of its cluster, strength 0 to 1."""
    clusters = clusters_of_pixels(image, assignment, box)
    means = mean_colours(image, assignment, clusters)
    return Image.blend(image.convert("RGB"), Image.fromarray(means[clusters]), strength)


def boundaries(assignment: NDArray[np.int64], box: Box) -> list[list[tuple[float, float]]]:
    """The patch edges at which the cluster changes, as line segments in pixels of the picture."""
    rows, columns = assignment.shape
    left, top, width, height = box
    xs, ys = left + width * np.arange(columns + 1) / columns, top + height * np.arange(rows + 1) / rows
    upright = np.argwhere(assignment[:, 1:] != assignment[:, :-1])
    level = np.argwhere(assignment[1:] != assignment[:-1])
    segments = [[(xs[c + 1], ys[r]), (xs[c + 1], ys[r + 1])] for r, c in upright]
    return segments + [[(xs[c], ys[r + 1]), (xs[c + 1], ys[r + 1])] for r, c in level]
