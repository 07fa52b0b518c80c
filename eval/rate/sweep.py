"""A sweep from its config to its rows, figures and summary."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.lab.rows import Store, write_json
from eval.lab.tables import progress
from eval.rate import work
from eval.rate.analysis import analyse
from eval.rate.config import RateConfig
from eval.rate.data import load_data
from eval.rate.figure import draw
from eval.rate.points import Row
from eval.rate.report import write as write_report
from tofc.config import CONFIG_NAME, resolve
from tofc.hub import fetch

SUMMARY = "summary.json"
_SOFTWARE = ("tofc", "torch", "transformers", "pillow", "pillow-jxl-plugin", "zstandard")


def sweep(config: RateConfig, out: Path, processes: int | None, console: Console) -> dict[str, Any]:
    """Runs what is not yet done of a sweep, and writes rows, curves, report and summary, which it returns."""
    data = load_data(config.data)
    config = replace(config, limit=min(config.limit, len(data)))
    store = Store(out, Row, made_with(config, data.name))
    units = work.unfinished(config, store)
    total = len(work.blocks(config)) * len(config.senders())
    default = work.usable_cores() if config.device == "cpu" else 1
    count = max(1, min(processes or default, len(units)))
    if len(units) < total:
        console.print(f"{out}: {total - len(units)} of {total} units are done already")
    with progress(console) as bar:
        task = bar.add_task("sweep", total=total, completed=total - len(units))
        for done, _ in enumerate(work.run(config, store, units, count) if units else (), 1):
            bar.advance(task)
            if not console.is_terminal and done * 10 // len(units) > (done - 1) * 10 // len(units):
                console.print(f"{done} of {len(units)} units")
    points = [point for sender in config.senders() for point in sender.points]
    rows = store.merge(work.part_name(point, block) for point in points for block in work.blocks(config))
    summary = {"name": config.name, "checkpoint": config.checkpoint, "data": data.name}
    summary |= analyse(rows, points, config)
    draw(summary, out)
    write_report(summary, config, data, out)
    write_json(out / SUMMARY, summary)
    return summary


def made_with(config: RateConfig, name: str) -> dict[str, Any]:
    """All that must be equal for the answers of two runs to belong into one sweep; `name` is the data's.

    The grids and the number of pictures may change: each point answers for itself.
    """
    return {
        "checkpoint": checkpoint_fingerprint(config.checkpoint),
        "data": {"name": name, "source": config.data.source, "options": config.data.options},
        "pictures_at_once": config.pictures_at_once,
        "dtype": config.dtype,
        "device": config.device,
        "software": {package: _version(package) for package in _SOFTWARE},
    }


def checkpoint_fingerprint(source: str) -> str:
    """SHA-256 over every file of a checkpoint; of a base on the hub its commit stands for its files."""
    checkpoint = resolve(source)
    digest = hashlib.sha256()
    folders = [checkpoint.folder]
    if Path(checkpoint.base).is_dir():
        folders += [Path(checkpoint.base)]
    else:
        digest.update(f"{checkpoint.base}@{fetch(checkpoint.base, CONFIG_NAME).parent.name}".encode())
    files = {file.resolve(): file.relative_to(folder) for folder in folders for file in folder.rglob("*")}
    for file, name in sorted(files.items(), key=lambda item: str(item[1])):
        if file.is_file():
            digest.update(str(name).encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
