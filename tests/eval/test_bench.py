from __future__ import annotations

import json

import pytest

from eval.bench import codec, merging
from tests.eval.commands import evaluate


def test_codec_benchmark_ends_with_one_json_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "SYMBOLS", 5000)
    code, printed, _ = evaluate("bench", "codec")
    assert code == 0
    result = json.loads(printed.splitlines()[-1])
    assert result["benchmark"] == "codec"
    assert result["msymbols"]["tofc"]["excess_bits"] * 5000 / 8 < 8
    assert result["msymbols"]["compressai"]["decode"] > 0
    assert all(0 < excess < 3 for excess in result["overhead_bytes"].values())
    assert result["packet_overhead_bytes"].keys() == {"137", "567", "2032"}
    for excess in result["packet_overhead_bytes"].values():
        assert 11 < excess["mean"] <= excess["max"] <= 16


def test_merging_benchmark_ends_with_one_json_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_CASES", ((2, 80, 16, 1),))
    code, printed, _ = evaluate("bench", "merging")
    assert code == 0
    (row,) = json.loads(printed.splitlines()[-1])["rows"]
    assert row["dpc_knn_ms"] > 0
    assert row["ratio"] == pytest.approx(row["published_ms"] / row["dpc_knn_ms"])
    # Well away from underflow both cluster alike, but for ties that the published procedure breaks by noise.
    assert row["agreement"] > 0.9


def test_unknown_benchmarks_are_named() -> None:
    code, _, said = evaluate("bench", "nothing")
    assert code == 2
    assert "nothing" in said
