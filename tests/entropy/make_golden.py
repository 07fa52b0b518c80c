"""Makes the golden files of the bitstream: `python tests/entropy/make_golden.py`.

They change only with the format: after that, every stream already written is lost. The codec among them is
drawn from a seed and not trained, and stays as it is where it is there already, so that training may change
what a seed gives; what it codes is spelled out in integers, so that no machine's arithmetic takes part.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"
WIDTH, TOKENS = 24, 10


def golden_features() -> np.ndarray:
    """Features [10, 24] float32 from integer arithmetic alone."""
    token, channel = np.arange(TOKENS)[:, None], np.arange(WIDTH)[None]
    return (((token * 7919 + channel * 104729 + token * channel * 31) % 257 - 128) / 32).astype(np.float32)


def coder_vectors() -> dict[str, object]:
    """A stream over three small tables, escapes and both ends of int32 included."""
    from entropy import rans
    from entropy.tables import RansTables

    frequencies = [[65535, 1], [100, 20000, 45000, 435, 1], [1, 1, 32768, 32765, 1]]
    minimum = [0, -1, 1000]
    tables = RansTables(
        np.concatenate(frequencies).astype(np.uint16),
        np.array([len(row) for row in frequencies], np.int32),
        np.array(minimum, np.int32),
    )
    symbols = [0, 0, -1, 0, 1, 2, 3, -2, 1000, 1002, 999, 2**31 - 1, -(2**31), 0, 1]
    indices = [0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 2, 0, 1]
    data = rans.encode(symbols, indices, tables)
    return {
        "frequencies": frequencies,
        "minimum": minimum,
        "symbols": symbols,
        "indices": indices,
        "data": data.hex(),
    }


def main() -> None:
    """Write codec, features' payloads and decoded values, and the coder's vectors."""
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    from conftest import make_codec

    from entropy import FeatureCodec
    from entropy.stream import cut

    if not (FOLDER / "codec-integer.safetensors").exists():
        make_codec(experts=3, width=WIDTH, seed=5).save(FOLDER)
    codec = FeatureCodec.load(FOLDER)
    features = golden_features()
    payloads = {quality: codec.encode(features, quality).hex() for quality in codec.qualities}
    whole, ends = codec.encode_with_ends(features, 4)
    decoded = {
        quality: [float(value) for value in codec.reconstruct(features, quality)[0, :6]] for quality in (1, 8)
    }
    vectors = {
        "fingerprint": codec.fingerprint.hex(),
        "empty": codec.encode(features[:0], 3).hex(),
        "payloads": payloads,
        "decoded": decoded,
        "cut": {num: cut(whole, num, int(ends[num - 1])).hex() for num in (1, 4, 9)},
        "leading": codec.encode(features, 4, leading=(1, 5, 6)).hex(),
    }
    (FOLDER / "payloads.json").write_text(json.dumps(vectors, indent=1) + "\n")
    (FOLDER / "coder.json").write_text(json.dumps(coder_vectors(), indent=1) + "\n")


if __name__ == "__main__":
    main()
