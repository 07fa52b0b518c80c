"""A run's log: one JSON line an entry, the same scalars to TensorBoard, and a picture of the curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tofc.writing import append_line, whole_file, write_whole


class RunLog:
    """Appends scalars to `folder/log.jsonl` and to TensorBoard event files beside it.

    On resuming after step s, entries of later steps are dropped first: the file reads as one unbroken run.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path, self._picture = folder / "log.jsonl", folder / "curves.png"
        kept = [entry for entry in read_log(self.path) if entry["step"] <= resume_step]
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Logs `scalars` at `step`."""
        rounded = {name: float(f"{value:.5g}") for name, value in scalars.items()}
        append_line(self.path, json.dumps({"step": step, **rounded}))
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def draw(self) -> None:
        """Draws what was logged against the step into curves.png."""
        draw_curves(read_log(self.path), self._picture)

    def close(self) -> None:
        """Draws the curves, and flushes TensorBoard's writer."""
        self.draw()
        self.writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log file, oldest first; empty where there is no file.

    A last line that a kill cut short is no entry.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    whole = lines if not lines or lines[-1].endswith("\n") else lines[:-1]
    return [json.loads(line) for line in whole if line.strip()]


def draw_curves(entries: Sequence[dict[str, Any]], picture: Path) -> None:
    """Draws losses, dense accuracies and validation accuracies into a PNG."""
    from matplotlib.figure import Figure

    names = {name for entry in entries for name in entry if "/" in name and not name.startswith("usage/")}
    panels = sorted({name.rpartition("/")[0] for name in names}) or ["loss"]
    figure = Figure(figsize=(4 * len(panels), 5.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in sorted(name for name in names if name.rpartition("/")[0] == panel):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            axes.plot(*zip(*points, strict=True), label=name[len(panel) + 1 :], linewidth=1.2)
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        if panel == "loss":
            axes.set_yscale("log")
        if axes.lines:
            axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    with whole_file(picture) as draft:
        figure.savefig(draft, dpi=90)
