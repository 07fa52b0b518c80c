from __future__ import annotations

import json

import pytest

from eval.bench import codec, merging
from eval.bench.__main__ import main


def test_codec_benchmark_ends_with_one_json_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "SYMBOLS", 5000)
    assert main(["codec"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["benchmark"] == "codec"
    assert result["msymbols"]["tofc"]["excess_bits"] * 5000 / 8 < 8
    assert result["msymbols"]["compressai"]["decode"] > 0
    assert all(0 < excess < 3 for excess in result["overhead_bytes"].values())
    assert result["packet_overhead_bytes"].keys() == {"137", "567", "2032"}
    for excess in result["packet_overhead_bytes"].values():
        assert 11 < excess["mean"] <= excess["max"] <= 16


def test_merging_benchmark_ends_with_one_json_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_CASES", ((2, 80, 16, 1),))
    assert main(["merging"]) == 0
    (row,) = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["rows"]
    assert row["dpc_knn_ms"] > 0
    assert row["ratio"] == pytest.approx(row["published_ms"] / row["dpc_knn_ms"])
    # Well away from underflow both cluster alike, but for ties that the published procedure breaks by noise.
    assert row["agreement"] > 0.9


def test_unknown_benchmarks_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
