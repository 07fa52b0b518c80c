"""Features: what the device side gives to the codec, and what the edge side gets back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofc.clusters import tile_box, tinted
from tofc.errors import UserError
from tofc.tiling import TileLayout

if TYPE_CHECKING:
    from encoders.merging import Clusters  # by way of numba


@dataclass(frozen=True)
class Features:
    """Features of one picture, uncoded or decoded.

    `tokens` float32 [K, C], a tensor where torch computes and an array on a device without it; K equals
    `layout.num_tokens` where nothing was merged. `image_size` is (height, width) in pixels, `tiling` how the
    picture was cut ("base", "anyres" or "padded"). `clusters` says which token went where, and is None on the
    edge. `timing` holds seconds by stage.
    """

    tokens: Any
    image_size: tuple[int, int]
    tiling: str
    layout: TileLayout
    clusters: Clusters | None = None
    timing: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_merged(self) -> bool:
        """Whether fewer tokens are left than the picture had."""
        return self.tokens.shape[0] != self.layout.num_tokens

    def __repr__(self) -> str:
        height, width = self.image_size
        num, channels = self.tokens.shape
        return f"Features({num} of {self.layout.num_tokens} tokens, width {channels}, {width}x{height})"

    def over(self, picture: Image.Image, strength: float = 0.7) -> Image.Image:
        """The picture, to look at, with each cluster in its mean colour at a strength of 0 to 1."""
        size = picture.size
        if size != self.image_size[::-1]:
            raise UserError(f"these are features of another picture: give that of {self.image_size[::-1]}")
        return tinted(picture, self.cluster_map, tile_box(size, self.tiling), strength)

    @property
    def cluster_map(self) -> np.ndarray:
        """Cluster 0..K-1 of each token of the base tile, int64 [side, side]; for drawing over the picture.

        With tiling "padded" the tile shows the picture centred in a square, otherwise stretched to one.
        """
        if self.clusters is None:
            raise ValueError("decoded features carry no clusters; take those of the device side")
        side = self.layout.side
        return as_array(self.clusters.assignment[0])[: side * side].reshape(side, side)


def as_array(values: Any) -> NDArray[Any]:
    """An array as it is, a tensor as the array of its values."""
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
