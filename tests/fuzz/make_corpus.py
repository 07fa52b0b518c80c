"""Makes the seeds of the fuzz target: `python tests/fuzz/make_corpus.py`; again when the format changes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Write each golden payload, and packets around some of them, as inputs of `fuzz_packet.check`."""
    sys.path.insert(0, str(HERE.parents[1]))
    from entropy import FeatureCodec
    from tofc.packet import Packet

    golden = HERE.parent / "entropy" / "golden"
    vectors = json.loads((golden / "payloads.json").read_text())
    tag = FeatureCodec.load(golden).fingerprint[:3]
    texts = [vectors["empty"], vectors["leading"], *vectors["cut"].values(), *vectors["payloads"].values()]
    payloads = [bytes.fromhex(text) for text in texts]
    packets = [
        Packet(payloads[1], ((480, 640),), tag),
        Packet(payloads[2], ((1, 4097),), tag, tiling="padded"),
        Packet(payloads[6], ((3, 2), (480, 640), (9, 9)), tag, tiling="anyres", token_counts=(4, 5)),
    ]
    seeds = [b"\x02" + payload for payload in payloads]
    for packet in packets:
        seeds += [b"\x00" + bytes(packet), b"\x01" + bytes(packet)[:-4]]
    folder = HERE / "corpus"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for seed in seeds:
        (folder / hashlib.sha1(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    main()
