"""The packet: the few bytes around the coded features that make them self-contained.

    1 byte   version (high four bits) and flags (low four: tiling, several pictures, large pictures)
    3 bytes  model tag: the first bytes of the codec's fingerprint
    [varint  number of pictures, from 2 on]                             only with the flag "several pictures"
    3 bytes  width - 1 and height - 1 of each picture, 12 bits each     varints with the flag "large pictures"
    [varint  number of tokens of each picture but the last]             only with the flag "several pictures"
    n bytes  payload: what the codec wrote
    4 bytes  CRC32 of everything before it, big-endian

`docs/bitstream.md` specifies the same for other implementations.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropy.errors import StreamError
from entropy.stream import Head, cut, decode_varint, encode_varint
from tofc.errors import PacketError, UserError
from tofc.writing import write_whole

if TYPE_CHECKING:
    from entropy import FeatureCodec

VERSION = 2
TAG_BYTES = 3
MAX_IMAGES = 1024
# How a picture was cut into tiles: one squashed square, the stock grid of tiles, one square padded with grey.
CODED_TILINGS = ("base", "anyres", "padded")

_CRC_BYTES = 4
_SEVERAL, _LARGE = 0b0100, 0b1000
_SHORT_SIZE = 1 << 12
_MAX_SIDE = 1 << 28
_SMALLEST = 1 + TAG_BYTES + 2 + _CRC_BYTES


@dataclass(frozen=True)
class Packet:
    """One or several pictures as coded features; `bytes(packet)` is what travels.

    `image_sizes` are (height, width) in pixels. `token_counts` has one entry for each picture but the last,
    whose tokens are the rest of the payload. `timing` holds the seconds that each stage of encoding took, and
    `token_ends` where each token ends in the payload's stream, so that `truncate` needs no codec: empty where
    that is not known. Neither travels or takes part in comparisons.
    """

    payload: bytes
    image_sizes: tuple[tuple[int, int], ...]
    model_tag: bytes
    tiling: str = "base"
    token_counts: tuple[int, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    token_ends: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.tiling not in CODED_TILINGS:
            raise PacketError(f"tiling is {self.tiling!r}; choose one of {', '.join(CODED_TILINGS)}")
        if len(self.model_tag) != TAG_BYTES:
            raise PacketError(f"the model tag has {len(self.model_tag)} bytes; give {TAG_BYTES}")
        if not 1 <= len(self.image_sizes) <= MAX_IMAGES:
            raise PacketError(f"{len(self.image_sizes)} pictures; a packet carries 1 to {MAX_IMAGES}")
        if len(self.token_counts) != len(self.image_sizes) - 1:
            raise PacketError(
                f"{len(self.token_counts)} token counts for {len(self.image_sizes)} pictures; give one for "
                "each picture but the last"
            )
        if not all(1 <= side <= _MAX_SIDE for size in self.image_sizes for side in size):
            raise PacketError(
                f"picture sizes {self.image_sizes} are out of range; sides run from 1 to {_MAX_SIDE}"
            )

    def __repr__(self) -> str:
        try:
            coded = f"{self.num_tokens} tokens, quality {self.quality}"
        except PacketError:
            coded = "damaged payload"
        sizes = ", ".join(f"{width}x{height}" for height, width in self.image_sizes)
        return f"Packet({len(self)} B, {coded}, {sizes})"

    def __bytes__(self) -> bytes:
        body = b"".join((self._head(), self.model_tag, self._layout(), self.payload))
        return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "big")

    def __len__(self) -> int:
        return sum(self.sections.values())

    @property
    def num_images(self) -> int:
        """Pictures in the packet."""
        return len(self.image_sizes)

    @property
    def num_tokens(self) -> int:
        """Tokens of all pictures together, as the payload declares them; PacketError where it is damaged."""
        return self._payload_head().num_tokens

    @property
    def quality(self) -> int:
        """The quality that it was coded at, from 1; PacketError where the payload is damaged."""
        return self._payload_head().level + 1

    @property
    def is_truncated(self) -> bool:
        """Whether tokens were cut off; PacketError where the payload is damaged."""
        return self._payload_head().is_cut

    def truncate(self, max_bytes: int, codec: FeatureCodec | None = None) -> Packet:
        """The packet of at most `max_bytes` with as many of the tokens as fit, or this one if it fits whole.

        It decodes to exactly the features that this one has for those tokens, and can be truncated again.
        The first tokens are those that lead in a progressive packet; before and after them, the first are
        an even sample of the pictures. A packet that was read from bytes needs the `codec` that wrote it.

        Raises UserError where `max_bytes` does not leave every picture a token, or `codec` is missing,
        PacketError where it is that of another model or the payload is damaged.
        """
        if len(self) <= max_bytes:
            return self
        ends = self.token_ends or self._ends(codec)
        # A cut that drops no byte of the stream is none.
        most = bisect_left(ends, ends[-1]) if ends else 0
        # The fewest that leave each picture one; all of these sizes and counts grow with the tokens.
        fewest = 1 + bisect_left(range(1, most + 1), 1, key=lambda count: min(self._shares(count)))
        fits = bisect_right(range(1, most + 1), max_bytes, key=lambda count: len(self._first(count, ends)))
        if fits < fewest:
            smallest = len(self._first(fewest, ends)) if fewest <= most else len(self)
            raise UserError(
                f"max_bytes is {max_bytes}, and the smallest packet that this one can be truncated to has "
                f"{smallest} bytes, with a token for each picture: allow at least that many"
            )
        return self._first(fits, ends)

    @property
    def sections(self) -> dict[str, int]:
        """Bytes by part, in the order in which they travel; they sum to `len(bytes(packet))`."""
        return {
            "header": 1,
            "model tag": TAG_BYTES,
            "image layout": len(self._layout()),
            "payload": len(self.payload),
            "checksum": _CRC_BYTES,
        }

    def sections_with(self, codec: FeatureCodec) -> dict[str, float]:
        """Like `sections`, with the payload split into the codec's own parts (fractions of bytes)."""
        out: dict[str, float] = {}
        for name, size in self.sections.items():
            out |= codec.sections(self.payload) if name == "payload" else {name: size}
        return out

    def save(self, path: str | Path) -> Path:
        """Writes the packet as a file, such as street.tofc; returns its path."""
        return write_whole(Path(path), bytes(self))

    @classmethod
    def load(cls, path: str | Path) -> Packet:
        """Reads a file of `save` or `tofc encode`; UserError where there is none, errors of `from_bytes`."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"packet {path} cannot be read: {error.strerror}; check the path") from None
        return cls.from_bytes(data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Packet:
        """Reads a packet back; no model is needed for it.

        Raises PacketError on anything that is not one whole, undamaged packet of this version.
        """
        data = _check_whole(data)
        return _read_body(data[:-_CRC_BYTES], data[0] & 0b1111)

    def _payload_head(self) -> Head:
        try:
            return Head.split(self.payload)[0]
        except StreamError as error:
            raise PacketError(f"the packet's payload does not hold together: {error}") from error

    def _ends(self, codec: FeatureCodec | None) -> tuple[int, ...]:
        """Where the tokens end, for a packet that does not know it."""
        if codec is None:
            raise UserError(
                "a packet that was read from bytes does not know where its tokens end; give truncate the "
                "codec that wrote it: packet.truncate(max_bytes, codec=device.codec)"
            )
        if codec.fingerprint[:TAG_BYTES] != self.model_tag:
            raise PacketError(
                f"the packet was made by another model (its tag is {self.model_tag.hex()}, this codec has "
                f"{codec.fingerprint[:TAG_BYTES].hex()}): give truncate the codec that wrote it"
            )
        try:
            return tuple(codec.token_ends(self.payload).tolist())
        except StreamError as error:
            raise PacketError(f"the packet's payload cannot be decoded: {error}") from error

    def _shares(self, num_tokens: int) -> list[int]:
        """How many of the first tokens belong to each picture."""
        places = self._payload_head().order[:num_tokens]
        picture = np.searchsorted(np.cumsum(self.token_counts), places, side="right")
        return np.bincount(picture, minlength=self.num_images).tolist()

    def _first(self, num_tokens: int, ends: tuple[int, ...]) -> Packet:
        """The packet of the first tokens."""
        return replace(
            self,
            payload=cut(self.payload, num_tokens, ends[num_tokens - 1]),
            token_counts=tuple(self._shares(num_tokens)[:-1]),
            token_ends=ends[:num_tokens],
        )

    def _head(self) -> bytes:
        flags = CODED_TILINGS.index(self.tiling)
        flags |= _SEVERAL if len(self.image_sizes) > 1 else 0
        flags |= _LARGE if self._has_large_images() else 0
        return bytes([VERSION << 4 | flags])

    def _has_large_images(self) -> bool:
        return any(side > _SHORT_SIZE for size in self.image_sizes for side in size)

    def _layout(self) -> bytes:
        several = len(self.image_sizes) > 1
        parts = [encode_varint(len(self.image_sizes))] if several else []
        for height, width in self.image_sizes:
            if self._has_large_images():
                parts += [encode_varint(width - 1), encode_varint(height - 1)]
            else:
                parts.append((width - 1 << 12 | height - 1).to_bytes(3, "big"))
        parts += [encode_varint(count) for count in self.token_counts]
        return b"".join(parts)


def _check_whole(given: Any) -> bytes:
    """The bytes of one whole packet of this version; PacketError for anything else that people hand in."""
    if isinstance(given, (str, Path)):
        raise PacketError(f"{str(given)[:200]!r} is a path, not a packet: read it with tofc.Packet.load")
    if not isinstance(given, (bytes, bytearray, memoryview)):
        raise PacketError(
            f"{type(given).__name__} is no packet: give what Device.encode returned, or its bytes"
        )
    data = bytes(given)
    if len(data) < _SMALLEST:
        raise PacketError(f"{len(data)} bytes are too few for a packet: it is cut short, or none at all")
    if zlib.crc32(data[:-_CRC_BYTES]).to_bytes(_CRC_BYTES, "big") != data[-_CRC_BYTES:]:
        raise PacketError(
            "the checksum does not fit: this is no packet of tofc, or it was damaged or cut short on its "
            "way; send it again"
        )
    version = data[0] >> 4
    if version != VERSION:
        raise PacketError(
            f"the packet has version {version}, this release of tofc reads version {VERSION}: "
            "use the same release on both sides"
        )
    return data


def _read_body(body: bytes, flags: int) -> Packet:
    """The fields behind the first byte. The checksum already fits, so a fault here is one of the writer."""
    if flags & 0b0011 >= len(CODED_TILINGS):
        raise PacketError(
            f"the packet asks for tiling {flags & 0b0011}, which version {VERSION} does not know"
        )
    position = 1 + TAG_BYTES
    num_images = 1
    if flags & _SEVERAL:
        num_images, position = _read_varint(body, position)
        if not 2 <= num_images <= MAX_IMAGES:
            raise PacketError(
                f"the packet announces {num_images} pictures; 2 to {MAX_IMAGES} are possible there"
            )
    sizes = []
    for _ in range(num_images):
        if flags & _LARGE:
            width, position = _read_varint(body, position)
            height, position = _read_varint(body, position)
        else:
            packed = int.from_bytes(_take(body, position, 3), "big")
            width, height, position = packed >> 12, packed & (_SHORT_SIZE - 1), position + 3
        sizes.append((height + 1, width + 1))
    counts = []
    for _ in range(num_images - 1):
        count, position = _read_varint(body, position)
        counts.append(count)
    return Packet(
        payload=body[position:],
        image_sizes=tuple(sizes),
        model_tag=body[1 : 1 + TAG_BYTES],
        tiling=CODED_TILINGS[flags & 0b0011],
        token_counts=tuple(counts),
    )


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and the position behind it; at most 28 bits."""
    try:
        value, length = decode_varint(data[position : position + 5])
    except StreamError as error:
        raise PacketError(f"the packet's header does not hold together: {error}") from error
    if value >= 1 << 28:
        raise PacketError("a number in the packet's header is larger than any that is allowed")
    return value, position + length


def _take(data: bytes, position: int, length: int) -> bytes:
    part = data[position : position + length]
    if len(part) < length:
        raise PacketError("the packet ends inside its header")
    return part
