"""Coverage-guided fuzzing of what drafting devices and their verifiers send: `make fuzz TARGET=drafts`.

An input's first byte says what the rest is: the question that opens an answer, a round of drafts, or a
verdict. Nothing but the error that is promised may come out, and what is accepted says the same when it is
written and read again.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import atheris  # before what it instruments

    sys.path.insert(0, str(Path(__file__).parents[2]))
    INSTRUMENTED = ("drafting.rounds", "serving.requests", "serving.schema", "serving.verification")
    with atheris.instrument_imports(include=[f"tofc.{name}" for name in INSTRUMENTED]):
        import tofc.drafting.rounds
        import tofc.serving.verification  # noqa: F401  what is imported below is then instrumented

from tofc.drafting.rounds import MessageError, Round, Verdict
from tofc.serving.verification import OpenRequest

KINDS = ("opening", "round", "verdict")
QUESTIONS: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("fuzz_requests.py")))


def fuzz_one(data: bytes) -> None:
    """One input of the fuzzer."""
    check(data)


def check(data: bytes) -> bool:
    """Whether an input is accepted; raises AssertionError, or anything, where our code is wrong."""
    kind, data = KINDS[data[0] % len(KINDS)] if data else KINDS[0], data[1:]
    if kind == "opening":
        return bool(QUESTIONS["check_question"](data, OpenRequest))
    message: Round | Verdict
    try:
        message = Round.from_bytes(data) if kind == "round" else Verdict.from_bytes(data)
    except MessageError:
        return False
    assert type(message).from_bytes(bytes(message)) == message
    return True


def seeds() -> list[bytes]:
    """Inputs of every kind that are accepted."""
    drafted = {"draft": "e1", "draft_parameters": 1, "vocabulary": "v", "tokens": [1, 2], "top_k": 3}
    made: dict[str, list[bytes]] = {
        "opening": [json.dumps(body | drafted).encode() for body in QUESTIONS["bodies"]()],
        "round": [
            bytes(Round(0, 0, 0)),
            bytes(Round(3, 0xDEADBEEF, 2, (5, 700, 1 << 40), 4)),
            bytes(Round(1, 7, 1, (9, 9), 1, 0, b"states")),
        ],
        "verdict": [
            bytes(Verdict(0, (), 0, False)),
            bytes(Verdict(2, (1, 300), 4, True, 1, 0.25, 0.125)),
            bytes(Verdict(0, (), 0, False, 0, (1 << 48) / 1e6)),  # the clock of a verifier that is wrong
        ],
    }
    return [bytes([KINDS.index(kind)]) + data for kind, inputs in made.items() for data in inputs]


if __name__ == "__main__":
    for number, seed in enumerate(seeds()):
        Path(sys.argv[-1], f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
