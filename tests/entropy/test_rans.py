from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropy import StreamError, rans, reference
from entropy.tables import NUM_SCALES, RansTables, laplacian_scales, laplacian_tables

TABLES = laplacian_tables(0.1)
FREQUENCIES = TABLES.rows
MINIMUM = TABLES.minimum.tolist()
INT32 = st.integers(-(2**31), 2**31 - 1)
SYMBOLS = st.lists(
    st.tuples(st.one_of(st.integers(-3, 3), INT32), st.integers(0, NUM_SCALES - 1)), max_size=60
)


def laplacian_symbols(
    rng: np.random.Generator, size: int, low: float = 0.05, high: float = 100.0
) -> tuple[np.ndarray, np.ndarray]:
    scale = np.exp(rng.uniform(np.log(low), np.log(high), size))
    index = np.abs(np.log(laplacian_scales())[None] - np.log(scale)[:, None]).argmin(1)
    return np.rint(rng.laplace(0, scale)).astype(np.int32), index.astype(np.uint16)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 1000, 50_000])
def test_round_trip_size_and_drained(size: int, rng: np.random.Generator) -> None:
    symbols, indices = laplacian_symbols(rng, size)
    data = rans.encode(symbols, indices, TABLES)
    assert np.array_equal(rans.decode(data, indices, TABLES), symbols)
    ideal = TABLES.cost(symbols, indices).sum() / 8
    assert ideal <= len(data) <= 1.0001 * ideal + 3


def test_nothing_takes_the_first_state_alone() -> None:
    assert rans.encode([], [], TABLES) == (2**8).to_bytes(2, "big")


def test_every_scale_and_both_ends_of_every_table() -> None:
    last = TABLES.minimum + TABLES.sizes - 2
    for offset in (-1, 0, 1):
        symbols = np.concatenate([TABLES.minimum + offset, last + offset])
        indices = np.tile(np.arange(NUM_SCALES), 2)
        assert np.array_equal(rans.decode(rans.encode(symbols, indices, TABLES), indices, TABLES), symbols)


def test_full_int32_under_every_scale() -> None:
    extremes = np.array([-(2**31), 2**31 - 1, -(2**31) + 1, 2**27, -(2**27), 0], np.int64)
    symbols = np.repeat(extremes, NUM_SCALES)
    indices = np.tile(np.arange(NUM_SCALES), extremes.size)
    data = rans.encode(symbols, indices, TABLES)
    assert np.array_equal(rans.decode(data, indices, TABLES), symbols)
    assert len(data) <= TABLES.cost(symbols.astype(np.int32), indices).sum() / 8 + 3


@settings(max_examples=150)
@given(SYMBOLS)
def test_reference_reads_and_writes_what_the_encoder_writes(pairs: list[tuple[int, int]]) -> None:
    symbols, indices = [s for s, _ in pairs], [i for _, i in pairs]
    data = rans.encode(np.array(symbols, np.int64), np.array(indices, np.int64), TABLES)
    assert rans.decode(data, np.array(indices, np.int64), TABLES).tolist() == symbols
    assert reference.decode(data, indices, FREQUENCIES, MINIMUM) == symbols
    assert reference.encode_rows([symbols], [indices], FREQUENCIES, MINIMUM) == (data, [len(data)])


@settings(max_examples=300)
@given(st.binary(max_size=40), st.lists(st.integers(0, NUM_SCALES - 1), max_size=20))
def test_reference_and_kernel_agree_on_any_bytes(data: bytes, indices: list[int]) -> None:
    def outcome(read: Callable[[], Iterable[int]]) -> object:
        try:
            return list(read())
        except StreamError:
            return StreamError

    fast = outcome(lambda: rans.decode(data, np.array(indices, np.int64), TABLES).tolist())
    assert fast == outcome(lambda: reference.decode(data, indices, FREQUENCIES, MINIMUM))


@settings(max_examples=100)
@given(SYMBOLS.filter(len), st.data())
def test_damage_is_noticed_or_changes_nothing_silently(
    pairs: list[tuple[int, int]], draw: st.DataObject
) -> None:
    """Every cut and every appended byte is an error; a flipped bit is one, or shows in the symbols."""
    symbols = np.array([s for s, _ in pairs], np.int64)
    indices = np.array([i for _, i in pairs], np.int64)
    data = rans.encode(symbols, indices, TABLES)
    cut = draw.draw(st.integers(0, len(data) - 1))
    for damaged in (data[:cut], data + b"\0", data + b"\xff"):
        with pytest.raises(StreamError):
            rans.decode(damaged, indices, TABLES)
    flipped = bytearray(data)
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        decoded = rans.decode(bytes(flipped), indices, TABLES)
    except StreamError:
        return
    assert not np.array_equal(decoded, symbols)


def test_parts_of_one_stream_resume(rng: np.random.Generator) -> None:
    symbols, indices = laplacian_symbols(rng, 500)
    decoder = rans.Decoder(rans.encode(symbols, indices, TABLES), TABLES)
    parts = [decoder.read(part) for part in np.split(indices, [0, 3, 3, 250])]
    decoder.finish()
    assert np.array_equal(np.concatenate(parts), symbols)


def test_finish_before_the_end_is_an_error(rng: np.random.Generator) -> None:
    symbols, indices = laplacian_symbols(rng, 100)
    decoder = rans.Decoder(rans.encode(symbols, indices, TABLES), TABLES)
    decoder.read(indices[:50])
    with pytest.raises(StreamError, match="follow the last symbol"):
        decoder.finish()


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rows_can_be_cut_where_they_end(num_rows: int, width: int, seed: int) -> None:
    """A stream cut behind a row gives all rows up to it, to kernel and reference; one byte off is noticed."""
    symbols, indices = laplacian_symbols(np.random.default_rng(seed), num_rows * width)
    symbols[::7] *= 1000  # some escapes
    rows, tables = symbols.reshape(num_rows, width), indices.reshape(num_rows, width)
    data, ends = rans.encode_rows(rows, tables, TABLES)
    assert data == rans.encode(symbols, indices, TABLES)
    written = reference.encode_rows(rows.tolist(), tables.tolist(), FREQUENCIES, MINIMUM)
    assert written == (data, ends.tolist())
    assert ends[-1] == len(data)
    assert np.all(np.diff(ends) >= 0)
    for count, end in enumerate(ends.tolist(), start=1):
        if end == len(data):
            break
        wanted, under = rows[:count].ravel(), tables[:count].ravel()

        def read(cut: bytes, under: np.ndarray = under) -> np.ndarray:
            decoder = rans.Decoder(cut, TABLES, is_cut=True)
            got = decoder.read(under)
            decoder.finish()
            return got

        assert np.array_equal(read(data[:end]), wanted)
        other = reference.ReferenceDecoder(data[:end], FREQUENCIES, MINIMUM, is_cut=True)
        assert [other.read_symbol(table) for table in under.tolist()] == wanted.tolist()
        other.finish()
        for damaged in (data[: end - 1], data[: end + 1]):
            with pytest.raises(StreamError):
                read(damaged)
        with pytest.raises(StreamError):  # it is not a whole stream either
            rans.decode(data[:end], under, TABLES)


def test_no_stream_costs_three_bytes_more_than_the_ideal(rng: np.random.Generator) -> None:
    for size in range(1, 400):
        symbols, indices = laplacian_symbols(rng, size, low=0.05, high=3.0)
        assert len(rans.encode(symbols, indices, TABLES)) < TABLES.cost(symbols, indices).sum() / 8 + 3


@pytest.mark.parametrize(
    "symbols, indices, text",
    [
        ([2**31], [0], "int32"),
        ([-(2**31) - 1], [0], "int32"),
        ([0.5], [0], "integers"),
        ([0], [NUM_SCALES], "64 tables"),
        ([0], [-1], "65535"),
        ([0], [0.0], "integers"),
        ([0, 1], [0], "one shape"),
        ([[0]], [[0]], "vector"),
    ],
)
def test_encoder_refuses(symbols: list, indices: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        rans.encode(np.array(symbols), np.array(indices), TABLES)


def test_decoder_refuses_tables_that_do_not_exist() -> None:
    with pytest.raises(StreamError, match="table"):
        rans.decode(rans.encode([0], [0], TABLES), [NUM_SCALES], TABLES)


def test_golden_bytes() -> None:
    """Literal bytes of the format: a change here breaks every stream already written."""
    golden = json.loads((Path(__file__).parent / "golden" / "coder.json").read_text())
    rows = golden["frequencies"]
    tables = RansTables(
        np.concatenate(rows).astype(np.uint16),
        np.array([len(row) for row in rows], np.int32),
        np.array(golden["minimum"], np.int32),
    )
    data = bytes.fromhex(golden["data"])
    assert rans.encode(golden["symbols"], golden["indices"], tables) == data
    assert rans.decode(data, golden["indices"], tables).tolist() == golden["symbols"]
    assert reference.decode(data, golden["indices"], rows, golden["minimum"]) == golden["symbols"]
