"""The payload: order of tokens, prefixes that decode, kernel and specification alike on any bytes."""

from __future__ import annotations

import functools
import os
import random
import runpy
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropy import FeatureCodec, StreamError, kernels, reference
from entropy.order import decode_places, encode_places, left_neighbours, stream_order
from entropy.stream import Head, ScaleNetworks, cut

MakeCodec = Callable[..., FeatureCodec]
MakeFeatures = Callable[..., Tensor]
GOLDEN = Path(__file__).parent / "golden"


@functools.cache
def golden_codec() -> FeatureCodec:
    return FeatureCodec.load(GOLDEN)


@functools.cache
def golden_features() -> np.ndarray:
    return runpy.run_path(str(GOLDEN.parent / "make_golden.py"))["golden_features"]()


@functools.cache
def golden_payload(quality: int = 4, leading: tuple[int, ...] = ()) -> bytes:
    return golden_codec().encode(golden_features(), quality, leading)


places = st.integers(1, 300).flatmap(
    lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1), max_size=size - 1).map(sorted))
)


# Order


@given(places)
def test_order_is_a_permutation_whose_leading_tokens_come_first(case: tuple[int, list[int]]) -> None:
    size, leading = case
    order = stream_order(size, leading)
    assert sorted(order.tolist()) == list(range(size))
    assert sorted(order[: len(leading)].tolist()) == leading
    assert order.tolist() == reference.read_order(size, leading)


def test_every_prefix_is_an_even_sample() -> None:
    for size in (1, 2, 7, 64, 196, 1000):
        order = stream_order(size)
        for count in range(1, size + 1):
            gaps = np.diff([0, *np.sort(order[:count]), size])
            assert gaps.max() <= 2 * -(-size // count) + 1


@given(places, st.integers(1, 300))
def test_a_prefix_has_the_order_of_a_smaller_picture(case: tuple[int, list[int]], count: int) -> None:
    """So that a cut stream can be put into raster order without knowing what was cut off."""
    size, _ = case
    part = stream_order(size)[: min(count, size)]
    assert np.argsort(np.argsort(part)).tolist() == stream_order(len(part)).tolist()


@given(places)
def test_left_neighbours_are_the_nearest_before(case: tuple[int, list[int]]) -> None:
    order = stream_order(*case)
    for token, left in enumerate(left_neighbours(order).tolist()):
        before = [place for place in order[:token].tolist() if place < order[token]]
        assert (order[left] if left >= 0 else None) == max(before, default=None)


@given(places)
def test_places_survive(case: tuple[int, list[int]]) -> None:
    size, leading = case
    data = encode_places(leading)
    assert decode_places(data + b"more", len(leading), size) == (tuple(leading), len(data))


def test_a_quarter_of_the_places_costs_three_and_a_half_bits_each() -> None:
    generator = random.Random(0)
    sizes = [len(encode_places(sorted(generator.sample(range(196), 49)))) for _ in range(50)]
    assert 8 * sum(sizes) / len(sizes) / 49 < 3.5


@given(places, st.integers(0, 7), st.booleans())
def test_heads_survive_and_are_short(case: tuple[int, list[int]], level: int, is_cut: bool) -> None:
    size, leading = case
    head = Head(size, level, is_cut, tuple(leading))
    assert Head.split(bytes(head) + b"stream") == (head, b"stream")
    assert len(bytes(Head(size, level))) == (1 if size < 8 else 2)
    assert len(bytes(Head(1023, 7))) == 2  # all that a tile of a published model has


# Prefixes


@pytest.mark.parametrize("experts", [1, 4])
@pytest.mark.parametrize("leading", [(), (0, 3, 11, 12, 30)])
def test_every_prefix_decodes_to_its_tokens(
    experts: int, leading: tuple[int, ...], codecs: MakeCodec, features: MakeFeatures
) -> None:
    codec, values = codecs(experts), features(1, 40, seed=2)[0]
    payload, ends = codec.encode_with_ends(values, 5, leading)
    assert np.array_equal(codec.token_ends(payload), ends)
    whole, order = codec.decode(payload), stream_order(40, leading)
    assert np.array_equal(whole, codec.reconstruct(values, 5))
    stream = len(payload) - len(bytes(Head.split(payload)[0]))
    cuts = [count for count in range(1, 40) if ends[count - 1] < stream]
    assert len(cuts) >= 38
    for count in cuts:
        part = cut(payload, count, ends[count - 1])
        assert np.array_equal(codec.decode(part), whole[np.sort(order[:count])])
        assert len(part) <= len(payload) + 1
        assert codec.num_tokens_of(part) == count
        inner = codec.token_ends(part)
        assert np.array_equal(inner, ends[:count])
        if count > 7:  # and again
            again = cut(part, 7, inner[6])
            assert again == cut(payload, 7, ends[6])
        for damaged in (part[:-1], part + b"\0"):
            with pytest.raises(StreamError):
                codec.decode(damaged)


def test_what_cannot_be_cut(codec: FeatureCodec, features: MakeFeatures) -> None:
    payload, ends = codec.encode_with_ends(features(1, 5)[0], 5)
    for count, end in ((0, 3), (5, int(ends[4]) - 1), (3, int(ends[4])), (6, 3)):
        with pytest.raises(ValueError, match="cannot cut"):
            cut(payload, count, end)


@pytest.mark.parametrize("leading", [(3, 2), (5, 5), (-1,), (12,), tuple(range(12))])
def test_impossible_leading_tokens(
    leading: tuple[int, ...], codec: FeatureCodec, features: MakeFeatures
) -> None:
    with pytest.raises(ValueError, match="ascending"):
        codec.encode(features(1, 12)[0], 4, leading)


# The specification


def outcomes(payload: bytes) -> tuple[object, object]:
    """What kernel and reference make of a payload: their tokens, or that they refuse it."""
    codec = golden_codec()
    assert codec.takes_kernels(1), f"because {kernels.__name__} is imported"
    found: list[object] = []
    try:
        symbols, _, ends = codec._read(payload)
        columns = (symbols.experts, symbols.hyper, symbols.residual, symbols.scale_index, ends)
        found.append(list(zip(*(column.tolist() for column in columns), strict=True)))
    except StreamError:
        found.append(StreamError)
    try:
        found.append(reference.read_payload(payload, codec))
    except StreamError:
        found.append(StreamError)
    return found[0], found[1]


@pytest.mark.parametrize("leading", [(), (1, 5, 6)])
def test_the_reference_reads_what_the_codec_writes(leading: tuple[int, ...]) -> None:
    for quality in (1, 4, 8):
        fast, slow = outcomes(golden_payload(quality, leading))
        assert fast == slow != StreamError


def test_some_packets_are_coded_without_numba(tmp_path: Path) -> None:
    """To the same bytes, ends of tokens and features; what codes much loads it."""
    payload, values = golden_payload(5, (1, 5, 6)), golden_features()
    np.save(tmp_path / "features.npy", values)
    script = (
        "import sys; import numpy as np; from entropy import FeatureCodec\n"
        "codec, values = FeatureCodec.load(sys.argv[1]), np.load('features.npy')\n"
        "payload, ends = codec.encode_with_ends(values, 5, (1, 5, 6))\n"
        "np.save('ends.npy', ends); np.save('decoded.npy', codec.decode(payload))\n"
        "first = sorted({'numba', 'scipy'} & set(sys.modules))\n"
        "for _ in range(10_000):\n"
        "    if 'numba' not in sys.modules: codec.decode(payload)\n"
        "print(payload.hex(), first, 'numba' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(GOLDEN)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.strip() == f"{payload.hex()} [] True", done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "ends.npy"), golden_codec().token_ends(payload))
    np.testing.assert_array_equal(np.load(tmp_path / "decoded.npy"), golden_codec().decode(payload))


@settings(max_examples=150)
@given(st.data())
def test_reference_and_kernel_agree_on_damage(data: st.DataObject) -> None:
    payload = bytearray(
        golden_payload(data.draw(st.integers(1, 8)), data.draw(st.sampled_from([(), (1, 5)])))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(0, len(payload)))]
    fast, slow = outcomes(bytes(payload))
    assert fast == slow


# Bounds


def test_few_bytes_that_declare_many_tokens_fail_at_once(codec: FeatureCodec) -> None:
    declared = bytes(Head(65535, 7))
    for payload in (
        declared + b"\xff" * 50,
        declared + b"\x7f" * 3,
        bytes(Head(65535, 7, True)) + b"\x55" * 50,
    ):
        tracemalloc.start()
        with pytest.raises(StreamError):
            codec.decode(payload)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 * 2**20


def test_networks_that_would_lead_the_kernel_astray_are_refused(codec: FeatureCodec) -> None:
    networks, width = [*codec.scale], codec.scale[0].layers[0].weight.shape[1]
    ScaleNetworks.pack(networks, width, codec.width)
    for in_width, out_width in ((width + 1, codec.width), (width, codec.width - 1)):
        with pytest.raises(ValueError, match="lead from"):
            ScaleNetworks.pack(networks, in_width, out_width)
    layer = networks[1].layers[0]
    for bounds in ((255, -1, 63), (255, 0, 64)):
        wrong = type(layer)(
            layer.weight, layer.bias, layer.multiplier, layer.shift, np.array(bounds, np.int32)
        )
        with pytest.raises(ValueError, match="indices of the 64 scales"):
            ScaleNetworks.pack([networks[0], type(networks[1])((wrong,))], width, codec.width)
