"""The packet's bytes: fixed layout, nothing lost, every damage noticed."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tofc
from tofc.packet import TILINGS, VERSION, Packet

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
        tiling=draw(st.sampled_from(TILINGS)),
        token_counts=tuple(counts),
    )


def test_golden_bytes_of_one_picture() -> None:
    packet = Packet(payload=b"features", image_sizes=((480, 640),), model_tag=TAG)
    assert bytes(packet).hex() == "10a1b2c327f1df6665617475726573e1a96d16"


def test_golden_bytes_of_several_large_pictures() -> None:
    packet = Packet(b"xy", ((1, 4097), (3, 2)), TAG, tiling="padded", token_counts=(200,))
    assert bytes(packet).hex() == "1ea1b2c3028020000102c801787944c08e1f"


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
    with pytest.raises(tofc.PacketError, match=f"version 2, this release of tofc reads version {VERSION}"):
        Packet.from_bytes(sealed(b"\x20" + TAG + bytes(6)))


@pytest.mark.parametrize(
    "body",
    ["13a1b2c3000000", "14a1b2c301000000", "14a1b2c300000000", "14a1b2c302000000", "18a1b2c3808080808001",
     "14a1b2c3ffff7f0000000000", "18a1b2c3ff"],
)  # fmt: skip
def test_wrong_fields_under_a_fitting_checksum(body: str) -> None:
    with pytest.raises(tofc.PacketError):
        Packet.from_bytes(sealed(bytes.fromhex(body)))


def test_random_bodies_under_a_fitting_checksum_never_crash() -> None:
    generator = random.Random(0)
    for _ in range(20_000):
        body = bytes([1 << 4 | generator.randrange(16)]) + generator.randbytes(generator.randrange(5, 40))
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
