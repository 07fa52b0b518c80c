"""The range coder beside those of the field: speed in both directions, and bytes over the ideal.

All coders code the same Laplacian symbols on one core, the scale of each drawn log-uniformly. Ours and
CompressAI's use the same tables; constriction computes its probabilities as it goes, as its users do. Inputs
are made ready in the form each library asks for, outside the clock.
"""

from __future__ import annotations

import importlib.util
import json
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from entropy import FeatureCodec, rans
from entropy.tables import laplacian_scales, laplacian_tables
from eval.lab.terminal import show, table
from tofc.config import ASSETS, bundled_names
from tofc.packet import TAG_BYTES, Packet

SYMBOLS = 500_000
REPEATS = 5
SCALES = (0.05, 8.0)
PAYLOADS = (137, 567, 2032)  # bytes of an ideal coder, at which the overhead is shown

Coder = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], int]]  # encode, decode, size in bytes


def codec() -> None:
    """Print the table and the JSON line."""
    tables = laplacian_tables(0.0)
    symbols, indices = _draw(SYMBOLS, seed=0)
    ideal = float(tables.cost(symbols, indices).sum()) / 8
    coders: dict[str, Callable[[NDArray[np.int32], NDArray[np.uint16]], Coder]] = {"tofc": _ours}
    absent = []
    for name, maker in (("compressai", _compressai), ("constriction", _constriction)):
        if importlib.util.find_spec(name):
            coders[name] = maker
        else:
            absent.append(name)
    results = {name: _measure(make(symbols, indices), symbols, ideal) for name, make in coders.items()}
    overheads = {size: round(_overhead(size), 2) for size in PAYLOADS}
    packets = {size: _packet_overhead(size) for size in PAYLOADS}

    low, high = SCALES
    title = f"{SYMBOLS} Laplacian symbols, scales {low} to {high}, one core, best of {REPEATS}"
    rows = (
        (name, f"{result['encode']:.1f}", f"{result['decode']:.1f}", f"{result['excess_bits']:.5f}")
        for name, result in results.items()
    )
    show(table(title, ["coder"], ("encode Msym/s", "decode Msym/s", "bits over ideal a symbol"), rows))
    for name in absent:
        print(f"{name} is not installed: left out (pip install {name})")
    over = (
        (str(size), f"{overheads[size]:.2f}", f"{mean:.2f}", f"{most:.2f}")
        for size, (mean, most) in packets.items()
    )
    columns = ("stream", "packet", "packet, most")
    show(table("mean bytes over the ideal", ["bytes of an ideal coder"], columns, over))
    ours = results["tofc"]
    ratios = {
        name: {way: round(ours[way] / result[way], 2) for way in ("encode", "decode")}
        for name, result in results.items()
        if name != "tofc"
    }
    print(
        json.dumps(
            {
                "benchmark": "codec",
                "msymbols": results,
                "times_faster_than": ratios,
                "overhead_bytes": overheads,
                "packet_overhead_bytes": {
                    size: {"mean": round(mean, 2), "max": round(most, 2)}
                    for size, (mean, most) in packets.items()
                },
            }
        )
    )


def _draw(size: int, seed: int) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Laplacian symbols and the tables whose scales they were drawn from."""
    rng = np.random.default_rng(seed)
    scales = laplacian_scales()
    usable = np.flatnonzero((scales >= SCALES[0]) & (scales <= SCALES[1]))
    indices = rng.choice(usable, size).astype(np.uint16)
    return np.rint(rng.laplace(0.0, scales[indices])).astype(np.int32), indices


def _measure(coder: Coder, symbols: NDArray[np.int32], ideal: float) -> dict[str, float]:
    encode, decode, size = coder
    encoded = encode()  # also compiles
    if not np.array_equal(np.asarray(decode(encoded)), symbols):
        raise RuntimeError("a coder did not give back what it was given")
    rates = {
        "encode": SYMBOLS / _best(encode) / 1e6,
        "decode": SYMBOLS / _best(lambda: decode(encoded)) / 1e6,
    }
    return {
        **{name: round(rate, 2) for name, rate in rates.items()},
        "excess_bits": round((size(encoded) - ideal) * 8 / SYMBOLS, 6),
    }


def _best(call: Callable[[], Any]) -> float:
    """Shortest of several runs, in seconds that the coding thread computed: other programs do not count."""
    times = []
    for _ in range(REPEATS):
        begin = time.thread_time()
        call()
        times.append(time.thread_time() - begin)
    return min(times)


def _overhead(size: int) -> float:
    """Mean bytes over the ideal of streams whose ideal is about `size` bytes."""
    tables = laplacian_tables(0.0)
    excess = []
    for seed in range(50):
        symbols, indices = _draw(20_000, seed)
        cost = np.cumsum(tables.cost(symbols, indices)) / 8
        count = int(np.searchsorted(cost, size))
        excess.append(len(rans.encode(symbols[:count], indices[:count], tables)) - cost[count - 1])
    return float(np.mean(excess))


def _packet_overhead(size: int) -> tuple[float, float]:
    """Mean and most bytes over the ideal of whole packets, of one tile, whose ideal is about `size` bytes.

    The bundled codec codes random features of its own covariance.
    """
    codec = FeatureCodec.load(ASSETS / bundled_names()[0])
    excess = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        features = codec.center + codec.inverse(0.5 * rng.laplace(size=(196, codec.width)))
        tokens = 1 + bisect_left(
            range(1, len(features)), 8.0 * size, key=lambda count: codec.estimate(features[:count], 4)
        )
        packet = Packet(codec.encode(features[:tokens], 4), ((480, 640),), codec.fingerprint[:TAG_BYTES])
        excess.append(len(bytes(packet)) - codec.estimate(features[:tokens], 4) / 8)
    return float(np.mean(excess)), max(excess)


def _ours(symbols: NDArray[np.int32], indices: NDArray[np.uint16]) -> Coder:
    tables = laplacian_tables(0.0)
    return lambda: rans.encode(symbols, indices, tables), lambda data: rans.decode(data, indices, tables), len


def _compressai(symbols: NDArray[np.int32], indices: NDArray[np.uint16]) -> Coder:
    from compressai import ans

    tables = laplacian_tables(0.0)
    sizes, minimum = tables.sizes.tolist(), tables.minimum.tolist()
    starts = [[*row.tolist(), 1 << 16] for row in np.split(tables.starts, tables.offsets[1:-1])]
    lengths = [n + 1 for n in sizes]
    values, rows = symbols.tolist(), indices.tolist()
    encoder, decoder = ans.RansEncoder(), ans.RansDecoder()
    return (
        lambda: encoder.encode_with_indexes(values, rows, starts, lengths, minimum),
        lambda data: decoder.decode_with_indexes(data, rows, starts, lengths, minimum),
        len,
    )


def _constriction(symbols: NDArray[np.int32], indices: NDArray[np.uint16]) -> Coder:
    import constriction

    scales = laplacian_scales()[indices]
    means = np.zeros(len(symbols))
    reach = int(np.abs(symbols).max()) + 1
    model = constriction.stream.model.QuantizedLaplace(-reach, reach)

    def encode() -> Any:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, model, means, scales)
        return coder.get_compressed()

    def decode(data: Any) -> Any:
        return constriction.stream.stack.AnsCoder(data).decode(model, means, scales)

    return encode, decode, lambda data: 4 * len(data)
