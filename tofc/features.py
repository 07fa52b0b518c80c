"""Features: what the device gives to the codec and the edge gets back; their clusters on a picture.

From packets come features exactly as their encoder reconstructed them; no network runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from entropy.errors import StreamError
from tofc.clock import Stopwatch
from tofc.errors import CheckpointError, PacketError, UserError
from tofc.packet import TAG_BYTES, Packet
from tofc.tiling import TileLayout, tile_layout

if TYPE_CHECKING:
    from encoders.merging import Clusters  # by way of numba
    from entropy import FeatureCodec

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


def unpack(packet: Packet | bytes, codec: FeatureCodec | None, config: Any) -> list[Features]:
    """The pictures of a packet as decoded features with their layout; `config` is the base model's.

    Raises PacketError for a packet of another model and for one that is not whole, CheckpointError without a
    codec.
    """
    import torch

    packet = packet if isinstance(packet, Packet) else Packet.from_bytes(packet)
    codec = check_codec(packet, codec)
    layouts = [tile_layout(size, packet.tiling, config) for size in packet.image_sizes]
    counts = [*packet.token_counts, packet.num_tokens - sum(packet.token_counts)]
    _check_counts(packet, counts, layouts)  # first: no more is decoded than the pictures can hold
    watch = Stopwatch()
    if codec.takes_kernels(packet.num_tokens):
        from tofc.compiled import load_kernels  # here, because numba takes half a second to import

        load_kernels("entropy.kernels", "decode_tokens")
    try:
        decoded = torch.from_numpy(codec.decode(packet.payload))  # [sum K, C]
    except StreamError as error:
        raise PacketError(f"the packet's payload cannot be decoded: {error}") from error
    timing = {"decode": watch.lap() / len(counts)}
    return [
        Features(tokens, size, packet.tiling, layout, timing=timing)
        for tokens, size, layout in zip(decoded.split(counts), packet.image_sizes, layouts, strict=True)
    ]


def _check_counts(packet: Packet, counts: Sequence[int], layouts: Sequence[TileLayout]) -> None:
    """PacketError where a picture has no tokens, or more than its size allows."""
    if min(counts) < 1:
        raise PacketError(f"the packet's token counts {counts} leave a picture without tokens")
    for count, (height, width), layout in zip(counts, packet.image_sizes, layouts, strict=True):
        if count > layout.num_tokens:
            raise PacketError(
                f"the packet holds {count} tokens for a picture of {width}x{height}, "
                f"which has {layout.num_tokens}"
            )


def check_codec(packet: Packet, codec: FeatureCodec | None) -> FeatureCodec:
    """The codec, if it is the one that made the packet; errors of `unpack`."""
    if codec is None:
        raise CheckpointError(
            "this is a plain LLaVA-OneVision model without codec: it cannot read packets. "
            "Load a checkpoint of tofc that has it as its base"
        )
    tag = codec.fingerprint[:TAG_BYTES]
    if packet.model_tag != tag:
        raise PacketError(
            f"the packet was made by another model (its tag is {packet.model_tag.hex()}, this edge "
            f"has {tag.hex()}): load the checkpoint that encoded it, or encode again with this one"
        )
    return codec
