"""Token clusters over a picture as hand-written SVG: hovering a cluster shows what one token stands for."""

from __future__ import annotations

import numpy as np
from PIL import Image


def cluster_svg(image: Image.Image, assignment: np.ndarray, tiling: str) -> str:
    """The clusters int64 [rows, columns] as an overlay for the picture, in its own proportions.

    Each cluster is a path in its mean colour with a title; one more path is where clusters meet.
    """
    rows, columns = assignment.shape
    left, top, width, height = _tile(image.size, tiling)
    colours = _mean_colours(image, assignment, (left, top, width, height))
    sizes = np.bincount(assignment.ravel())
    cells = "".join(
        f'<path d="{_cells(assignment == cluster)}" fill="{colours[cluster]}">'
        f"<title>one token: {sizes[cluster]} of {assignment.size} patches</title></path>"
        for cluster in np.unique(assignment)
    )
    place = f"translate({left:g} {top:g}) scale({width / columns:g} {height / rows:g})"
    return (
        f'<svg class="clusters" viewBox="0 0 {image.width} {image.height}" aria-hidden="true">'
        f'<g transform="{place}">{cells}<path class="seams" d="{_seams(assignment)}"/></g></svg>'
    )


def _tile(size: tuple[int, int], tiling: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of the base tile on a picture of this width and height."""
    if tiling != "padded":
        return 0.0, 0.0, float(size[0]), float(size[1])
    side = float(max(size))
    return (size[0] - side) / 2, (size[1] - side) / 2, side, side


def _mean_colours(
    image: Image.Image, assignment: np.ndarray, tile: tuple[float, float, float, float]
) -> dict[int, str]:
    """Mean colour of each cluster; grey for one that lies beside the picture."""
    rows, columns = assignment.shape
    left, top, width, height = tile
    box = (left, top, left + width, top + height)
    small, grey = (columns * 8, rows * 8), (128, 128, 128)
    whole = image.convert("RGB").transform(
        small, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR, fillcolor=grey
    )
    patches = np.asarray(whole, np.float64).reshape(rows, 8, columns, 8, 3).mean((1, 3))  # [rows, columns, 3]
    means = {int(c): patches[assignment == c].mean(0).round().astype(int) for c in np.unique(assignment)}
    return {cluster: "#" + "".join(f"{v:02x}" for v in mean) for cluster, mean in means.items()}


def _cells(mask: np.ndarray) -> str:
    """Runs of patches, row by row, as rectangles of one path in units of patches."""
    parts = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(line.astype(int), prepend=0, append=0))
        parts += [f"M{a} {row}h{b - a}v1h{a - b}z" for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return "".join(parts)


def _seams(assignment: np.ndarray) -> str:
    """Edges of patches at which the cluster changes, as one path in units of patches."""
    upright = np.argwhere(assignment[:, 1:] != assignment[:, :-1])
    level = np.argwhere(assignment[1:] != assignment[:-1])
    return "".join(
        [f"M{c + 1} {r}v1" for r, c in upright.tolist()] + [f"M{c} {r + 1}h1" for r, c in level.tolist()]
    )
