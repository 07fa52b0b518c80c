"""A run's log: one JSON line an entry, the same scalars to TensorBoard, and a picture of the curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RunLog:
    """Appends scalars to `folder/log.jsonl` and to TensorBoard event files beside it.

    On resuming after step s, entries of later steps are dropped first: the file reads as one unbroken run.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "log.jsonl"
        kept = [entry for entry in self.read(self.path) if entry["step"] <= resume_step]
        self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """The entries of a log file, oldest first; empty where there is no file."""
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Logs `scalars` at `step`."""
        rounded = {name: float(f"{value:.5g}") for name, value in scalars.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard's writer."""
        self.writer.close()


def draw_curves(log: Path, picture: Path) -> None:
    """Draws losses, dense accuracies and validation accuracies of `log` against the step into a PNG."""
    from matplotlib.figure import Figure

    entries = RunLog.read(log)
    panels = [
        ("loss", [("loss/answers", "answers"), ("loss/dense", "dense")]),
        ("what each patch knows (training)", _names(entries, "dense/")),
        ("validation: yes/no", _names(entries, "validation/yes_no/")),
        ("validation: multiple choice", _names(entries, "validation/choice/")),
        ("validation: free answers", _names(entries, "validation/free/")),
    ]
    figure = Figure(figsize=(20, 5.2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, label in names:
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        if title == "loss":
            axes.set_yscale("log")
        if axes.lines:
            axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    figure.savefig(picture, dpi=90)


def _names(entries: list[dict[str, Any]], head: str) -> list[tuple[str, str]]:
    found = sorted({name for entry in entries for name in entry if name.startswith(head)})
    return [(name, name[len(head) :]) for name in found]
