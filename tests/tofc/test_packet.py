"""The packet's bytes: fixed layout, nothing lost, every damage noticed."""

from __future__ import annotations

import functools
import random
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tofc
from entropy import FeatureCodec
from tofc.packet import CODED_TILINGS, VERSION, Packet

TAG = bytes.fromhex("a1b2c3")
sides = st.one_of(st.integers(1, 4096), st.integers(1, 1 << 28))


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    sizes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=5))
    counts = draw(st.lists(st.integers(1, 65535), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    return Packet(
        payload=draw(st.binary(max_size=200)),
        image_sizes=tuple(sizes),
        model_tag=draw(st.binary(min_size=3, max_size=3)),
        tiling=draw(st.sampled_from(CODED_TILINGS)),
        token_counts=tuple(counts),
    )


def test_golden_bytes_of_one_picture() -> None:
    packet = Packet(payload=b"features", image_sizes=((480, 640),), model_tag=TAG)
    assert bytes(packet).hex() == "20a1b2c327f1df66656174757265732d0eccc7"


def test_golden_bytes_of_several_large_pictures() -> None:
    packet = Packet(b"xy", ((1, 4097), (3, 2)), TAG, tiling="padded", token_counts=(200,))
    assert bytes(packet).hex() == "2ea1b2c3028020000102c8017879ef16caab"


def test_the_documented_packet() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bitstream.md").read_text()
    (documented,) = re.findall(r"^2[0-9a-f]{30,}$", text, re.MULTILINE)
    channel = np.arange(codec().width)
    token = ((channel * 104729) % 257 - 128) / 32
    packet = Packet(codec().encode(token[None], 1), ((480, 640),), codec().fingerprint[:3])
    assert bytes(packet).hex() == documented


def test_one_ordinary_picture_costs_eleven_bytes() -> None:
    assert len(bytes(Packet(b"", ((4096, 4096),), TAG))) == 11
    assert len(bytes(Packet(b"", ((4096, 4097),), TAG))) == 12


@given(packets())
def test_reading_gives_back_what_was_written(packet: Packet) -> None:
    data = bytes(packet)
    assert Packet.from_bytes(data) == packet
    assert len(data) == len(packet) == sum(packet.sections.values())
    assert packet.sections["payload"] == len(packet.payload)


@settings(max_examples=25)
@given(packets())
def test_every_flipped_bit_is_noticed(packet: Packet) -> None:
    data = bytes(packet)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(tofc.PacketError):
            Packet.from_bytes(bytes(damaged))


@settings(max_examples=25)
@given(packets(), st.binary(min_size=1, max_size=3))
def test_every_truncation_and_addition_is_noticed(packet: Packet, extra: bytes) -> None:
    data = bytes(packet)
    for end in range(len(data)):
        with pytest.raises(tofc.PacketError):
            Packet.from_bytes(data[:end])
    for longer in (data + extra, extra + data):
        with pytest.raises(tofc.PacketError):
            Packet.from_bytes(longer)


def test_what_is_no_packet_is_called_so() -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"hello, I am text"):
        with pytest.raises(tofc.PacketError, match="packet"):
            Packet.from_bytes(data)


def sealed(body: bytes) -> bytes:
    """A body of any content under a checksum that fits."""
    return body + zlib.crc32(body).to_bytes(4, "big")


def test_another_version_is_named() -> None:
    with pytest.raises(tofc.PacketError, match=f"version 3, this release of tofc reads version {VERSION}"):
        Packet.from_bytes(sealed(b"\x30" + TAG + bytes(6)))


@pytest.mark.parametrize(
    "body",
    ["23a1b2c3000000", "24a1b2c301000000", "24a1b2c300000000", "24a1b2c302000000", "28a1b2c3808080808001",
     "24a1b2c3ffff7f0000000000", "28a1b2c3ff"],
)  # fmt: skip
def test_wrong_fields_under_a_fitting_checksum(body: str) -> None:
    with pytest.raises(tofc.PacketError):
        Packet.from_bytes(sealed(bytes.fromhex(body)))


def test_random_bodies_under_a_fitting_checksum_never_crash() -> None:
    generator = random.Random(0)
    for _ in range(20_000):
        body = bytes([VERSION << 4 | generator.randrange(16)]) + generator.randbytes(
            generator.randrange(5, 40)
        )
        try:
            packet = Packet.from_bytes(sealed(body))
        except tofc.PacketError:
            continue
        assert Packet.from_bytes(bytes(packet)) == packet


@pytest.mark.parametrize(
    "change",
    [{"tiling": "mosaic"}, {"model_tag": b"12"}, {"image_sizes": ()}, {"image_sizes": ((0, 5),)},
     {"token_counts": (3,)}, {"image_sizes": ((1, 1),) * 1025, "token_counts": (1,) * 1024}],
)  # fmt: skip
def test_impossible_packets_cannot_be_made(change: dict) -> None:
    with pytest.raises(tofc.PacketError):
        Packet(**{"payload": b"", "image_sizes": ((4, 4),), "model_tag": TAG, **change})


def test_timing_does_not_travel_or_compare() -> None:
    timed = Packet(b"x", ((4, 4),), TAG, timing={"code": 1.0})
    assert timed == Packet(b"x", ((4, 4),), TAG)
    assert hash(timed) == hash(Packet(b"x", ((4, 4),), TAG))
    assert Packet.from_bytes(bytes(timed)).timing == {}


# Truncation, and what a whole packet costs


@functools.cache
def codec() -> FeatureCodec:
    return FeatureCodec.load(Path(__file__).parents[1] / "entropy" / "golden")


def coded(counts: tuple[int, ...], quality: int = 5, leading: tuple[int, ...] = (), seed: int = 0) -> Packet:
    """A packet of pictures with that many tokens each, as a device makes it."""
    generator = np.random.default_rng(seed)
    values = codec().center + 4 * generator.laplace(size=(sum(counts), codec().width))
    payload, ends = codec().encode_with_ends(values, quality, leading)
    tag = codec().fingerprint[:3]
    sizes = ((480, 640),) * len(counts)
    return Packet(payload, sizes, tag, token_counts=counts[:-1], token_ends=tuple(ends.tolist()))


def pictures(packet: Packet) -> list[np.ndarray]:
    """The decoded features of each picture."""
    return np.split(codec().decode(packet.payload), np.cumsum(packet.token_counts))


@pytest.mark.parametrize("leading", [(), (1, 8, 9, 30)])
@pytest.mark.parametrize("counts", [(31,), (20, 3, 8)])
def test_truncated_packets_keep_as_many_tokens_as_fit(
    counts: tuple[int, ...], leading: tuple[int, ...]
) -> None:
    whole = coded(counts, leading=leading)
    full = pictures(whole)
    assert whole.truncate(len(whole)) is whole
    assert not whole.is_truncated
    part, size = whole, len(whole) - 1
    while min(len(features) for features in pictures(part)) > 1:
        smaller = whole.truncate(size)
        assert len(part) == size + 1  # no budget between was missed
        assert smaller.num_tokens < part.num_tokens or part is whole
        part, size = smaller, len(smaller) - 1
        again = Packet.from_bytes(bytes(part))
        assert again == part
        assert again.is_truncated
        for left, features in zip(pictures(again), full, strict=True):
            rows = [np.flatnonzero((features == row).all(1)) for row in left]
            assert [row.size for row in rows] == [1] * len(left)  # exactly these tokens ...
            assert np.all(np.diff(np.concatenate(rows)) > 0)  # ... in raster order
    least = len(part)
    while least > 0 and fits(whole, least - 1):
        least -= 1
    with pytest.raises(tofc.UserError, match=f"max_bytes is 3, .* has {least} bytes"):
        whole.truncate(3)


def fits(packet: Packet, size: int) -> bool:
    """Whether a packet can be truncated to a size; where it can, it is."""
    try:
        return len(bytes(packet.truncate(size))) <= size
    except tofc.UserError:
        return False


def test_truncating_again_and_from_bytes_is_truncating_once() -> None:
    whole = coded((12, 19), leading=(0, 5, 14))
    bare = Packet.from_bytes(bytes(whole))
    least = len(whole) // 3
    for size in (len(whole) - 1, len(whole) * 2 // 3, len(whole) // 2):
        part = whole.truncate(size)
        assert bare.truncate(size, codec=codec()) == part
        assert part.truncate(least) == whole.truncate(least)
        assert Packet.from_bytes(bytes(part)).truncate(least, codec()) == whole.truncate(least)


def test_truncating_says_what_is_missing() -> None:
    bare = Packet.from_bytes(bytes(coded((31,))))
    with pytest.raises(tofc.UserError, match=r"give truncate the codec"):
        bare.truncate(100)
    with pytest.raises(tofc.PacketError, match="another model"):
        Packet(bare.payload, bare.image_sizes, TAG).truncate(100, codec())
    with pytest.raises(tofc.PacketError, match="cannot be decoded"):
        Packet(bare.payload[:-1], bare.image_sizes, bare.model_tag).truncate(100, codec())
    with pytest.raises(tofc.PacketError, match="does not hold together"):
        _ = Packet(b"\xff", ((4, 4),), TAG).num_tokens


def test_a_packet_of_one_tile_is_at_most_sixteen_bytes_over_the_ideal() -> None:
    generator = np.random.default_rng(1)
    for trial in range(300):
        tokens, quality = (
            int(generator.integers(1, 730 if trial % 20 == 0 else 80)),
            int(generator.integers(1, 9)),
        )
        values = codec().center + generator.laplace(size=(tokens, codec().width))
        packet = Packet(codec().encode(values, quality), ((384, 384),), codec().fingerprint[:3])
        assert len(bytes(packet)) <= codec().estimate(values, quality) / 8 + 16


@pytest.mark.parametrize("leading", [(), (1, 8)])
def test_every_flipped_bit_of_a_real_packet_is_noticed(leading: tuple[int, ...]) -> None:
    data = bytes(coded((31,), leading=leading))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(tofc.PacketError):
            Packet.from_bytes(bytes(damaged))
