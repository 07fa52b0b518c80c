"""Token clusters over a picture as hand-written SVG: hovering a cluster shows what one token stands for."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tofc.clusters import clusters_of_pixels, mean_colours, tile_box


def cluster_svg(image: Image.Image, assignment: np.ndarray, tiling: str) -> str:
    """The clusters int64 [rows, columns] as an overlay for the picture, in its own proportions.

    Each cluster is a path in its mean colour with a title; one more path is where clusters meet.
    """
    rows, columns = assignment.shape
    left, top, width, height = box = tile_box(image.size, tiling)
    means = mean_colours(image, assignment, clusters_of_pixels(image, assignment, box))
    sizes = np.bincount(assignment.ravel())
    cells = "".join(
        f'<path d="{_cells(assignment == cluster)}" fill="#{bytes(means[cluster]).hex()}">'
        f"<title>one token: {sizes[cluster]} of {assignment.size} patches</title></path>"
        for cluster in np.unique(assignment)
    )
    place = f"translate({left:g} {top:g}) scale({width / columns:g} {height / rows:g})"
    return (
        f'<svg class="clusters" viewBox="0 0 {image.width} {image.height}" aria-hidden="true">'
        f'<g transform="{place}">{cells}<path class="seams" d="{_seams(assignment)}"/></g></svg>'
    )


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
