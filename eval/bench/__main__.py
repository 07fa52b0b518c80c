"""`python -m eval.bench [NAME ...]`: runs benchmarks by name, all of them by default."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = {
    "codec": "eval.bench.codec",
    "merging": "eval.bench.merging",
    "encoding": "eval.bench.encoding",
    "device": "eval.bench.device",
}


def main(names: list[str]) -> int:
    """Run benchmarks; returns the exit code: 0 done, 2 an unknown name."""
    if {"-h", "--help"} & set(names):
        print(f"usage: python -m eval.bench [{' | '.join(BENCHMARKS)}] ...   (all of them if none is named)")
        return 0
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; choose from: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        importlib.import_module(BENCHMARKS[name]).main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
