"""A whole run: processes measured, then simulated; the paper's table simulated; all into one folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.decoding.config import DecodingConfig
from eval.decoding.counted import of_counted, of_published
from eval.decoding.measure import measure
from tofc.cli_report import working


def run(config: DecodingConfig, folder: Path) -> dict[str, Any]:
    """Measures and simulates, writes decoding.json into `folder`, and gives what it holds.

    Raises UserError for what the user can put right.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"config": asdict(config), "measured": measure(config)}
    with working("simulating the paper's tiers"):
        summary["published"] = [
            row
            for one in config.published
            for row in of_published(one, config.shares, config.simulated_tokens)
        ]
        if config.counted is not None:
            summary["counted"] = list(of_counted(config.counted, config.shares, config.simulated_tokens))
    (folder / "decoding.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary
