"""Coverage-guided fuzzing of what comes from the network: `make fuzz`, or with options of libFuzzer:

    python tests/fuzz/fuzz_packet.py -runs=100000 FOLDER

FOLDER takes the seeds, and what is found on the way.

An input's first byte says how far behind the packet's checks the rest of it is put: it is a packet, a packet
without its checksum, or a payload. Whatever it is, nothing but PacketError or StreamError may come out, and
the compiled decoder must do what its specification in plain Python does. Kernels are compiled, so coverage is
that of the specification. Without atheris, `check` is all there is: a test replays
the seeds and what was found.
"""

from __future__ import annotations

import functools
import json
import sys
import zlib
from pathlib import Path

if __name__ == "__main__":
    import atheris  # before what it instruments

    sys.path.insert(0, str(Path(__file__).parents[2]))
    import entropy.kernels  # numba compiles these, and cannot what has been instrumented

    INSTRUMENTED = ("stream", "order", "reference")
    with atheris.instrument_imports(include=[f"entropy.{name}" for name in INSTRUMENTED] + ["tofc.packet"]):
        import entropy.reference
        import tofc.packet  # noqa: F401  what the target imports is then instrumented

import numpy as np

import entropy.kernels  # noqa: F401  once they are loaded, codecs read with them alone
from entropy import FeatureCodec, StreamError
from entropy.reference import read_payload
from entropy.stream import Head
from tofc.errors import PacketError, UserError
from tofc.packet import Packet

GOLDEN = Path(__file__).parents[1] / "entropy" / "golden"
PACKET, SEALED, PAYLOAD = range(3)
SLOW = 256  # tokens: more are slow and seldom anything new, so most inputs that declare them are left out


@functools.cache
def golden_codec() -> FeatureCodec:
    """The small codec of the test vectors."""
    return FeatureCodec.load(GOLDEN)


def fuzz_one(data: bytes) -> None:
    """One input of the fuzzer."""
    check(data)


def check(data: bytes) -> bool:
    """Whether an input is accepted; raises AssertionError, or anything, where our code is wrong."""
    mode, data = data[0] % 3 if data else PACKET, data[1:]
    if mode == PAYLOAD:
        packet = Packet(data, ((480, 640),), golden_codec().fingerprint[:3])
    else:
        if mode == SEALED:
            data += zlib.crc32(data).to_bytes(4, "big")
        try:
            packet = Packet.from_bytes(data)
        except PacketError:
            return False
        assert Packet.from_bytes(bytes(packet)) == packet
        assert len(packet) == len(bytes(packet))
    return check_payload(packet)


def check_payload(packet: Packet) -> bool:
    """Decode twice, and cut what could be decoded."""
    codec, payload = golden_codec(), packet.payload
    try:
        declared = Head.split(payload)[0].num_tokens
    except StreamError:
        declared = 0
    if declared > SLOW and payload[-1] % 16:
        return False
    try:
        expected = read_payload(payload, codec)
    except StreamError:
        expected = None
    try:
        symbols, head, ends = codec._read(payload)
    except StreamError:
        assert expected is None
        return False
    columns = (symbols.experts, symbols.hyper, symbols.residual, symbols.scale_index, ends)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    features = codec.decode(payload)
    assert np.isfinite(features).all()
    if head.num_tokens == 0:
        return True
    if not head.is_cut:  # one way to write a payload: nothing else decodes to the same
        for kernels in (True, False):
            assert bytes(head) + codec._stream.encode(symbols, head, kernels)[0] == payload
    assert Head.split(payload)[0] == head
    assert ends[-1] <= len(payload)
    try:
        part = Packet(payload, packet.image_sizes, codec.fingerprint[:3], packet.tiling, packet.token_counts)
        part = part.truncate(len(part) * 2 // 3, codec)
    except UserError:
        return True
    left = codec.decode(part.payload)
    assert np.array_equal(left, features[np.sort(head.order[: len(left)])], equal_nan=True)
    return True


def seeds() -> list[bytes]:
    """Each golden payload, and packets around some of them."""
    vectors = json.loads((GOLDEN / "payloads.json").read_text())
    tag = golden_codec().fingerprint[:3]
    texts = [vectors["empty"], vectors["leading"], *vectors["cut"].values(), *vectors["payloads"].values()]
    payloads = [bytes.fromhex(text) for text in texts]
    packets = [
        Packet(payloads[1], ((480, 640),), tag),
        Packet(payloads[2], ((1, 4097),), tag, tiling="padded"),
        Packet(payloads[6], ((3, 2), (480, 640), (9, 9)), tag, tiling="anyres", token_counts=(4, 5)),
    ]
    found = [bytes([PAYLOAD]) + payload for payload in payloads]
    for packet in packets:
        found += [bytes([PACKET]) + bytes(packet), bytes([SEALED]) + bytes(packet)[:-4]]
    return found


if __name__ == "__main__":
    for number, seed in enumerate(seeds()):
        Path(sys.argv[-1], f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
