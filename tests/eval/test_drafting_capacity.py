"""What a saturated edge serves: counted at large shapes, and the processor's seconds of a real process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eval.drafting.capacity import MOST_DRAFTS, count_load
from eval.drafting.tiers import DraftingConfig
from eval.serving.process import Server
from tofc.config import load_yaml


def test_drafts_pay_while_reading_weights_is_what_takes_time_and_not_beyond() -> None:
    config = load_yaml("decoding-scenes", DraftingConfig)
    assert config.counted is not None
    shape, rates, share = config.counted.shapes[1], config.counted.rates, 0.6
    (single,) = count_load(
        shape, replace(rates, utilisation=1.0, bandwidth_utilisation=0.01), 2048, [1], [share]
    )
    assert single.drafts == MOST_DRAFTS  # drafts cost nothing there, and a round brings all that stand
    assert single.ratio == pytest.approx((1 - share ** (MOST_DRAFTS + 1)) / (1 - share))
    (busy,) = count_load(
        shape, replace(rates, utilisation=1e-6, bandwidth_utilisation=1.0), 2048, [64], [share]
    )
    assert busy.drafts == 1  # each token of a pass costs the same, and the fewer fall the better
    assert busy.ratio == pytest.approx((1 + share) / 2)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_processor_seconds_are_those_of_the_process(tmp_path: Path) -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert 0.45 < Server("", process, tmp_path).processor_seconds < 1.0
        process.stdin.close()
