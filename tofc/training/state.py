"""What a run leaves on disk while it goes: the state that a killed run goes on from, and its log.

The state is one safetensors file, no pickle, replaced in one move: no kill can tear it. The log has one JSON
line an entry, the same scalars for TensorBoard, and a picture of the curves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tofc.writing import append_line, faults_named, whole_file, write_whole

STATE_NAME = "state.safetensors"


def save_state(
    path: Path, step: int, modules: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]
) -> None:
    """Writes the modules' weights and the optimizers' moments as they stand after `step` steps."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        seen: set[int] = set()
        for key, value in module.state_dict().items():
            if value.data_ptr() not in seen:  # tied weights are stored once
                seen.add(value.data_ptr())
                tensors[f"module/{name}/{key}"] = value.detach().contiguous()
    for number, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(value).detach().contiguous()
    with whole_file(path) as draft:
        save_file(tensors, draft, metadata={"step": str(step)})


def load_state(path: Path, modules: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]) -> int:
    """Restores what `save_state` wrote into modules and optimizers of the same build; returns the step.

    Raises `RuntimeError` (from torch) where the weights do not fit the modules.
    """
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    for name, module in modules.items():
        head = f"module/{name}/"
        weights = {key[len(head) :]: value for key, value in tensors.items() if key.startswith(head)}
        missing, unexpected = module.load_state_dict(weights, strict=False)
        tied = set(getattr(module, "_tied_weights_keys", None) or ())
        if unexpected or set(missing) - tied:
            raise RuntimeError(
                f"{path} does not fit {name}: missing {missing[:4]}, unexpected {unexpected[:4]}"
            )
    for number, optimizer in enumerate(optimizers):
        head = f"optimizer/{number}/"
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(head):
                index, _, moment = key[len(head) :].partition("/")
                state.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def trained_parameters(module: nn.Module) -> nn.ParameterDict:
    """What is trained of a module, for a state: names without dots, which those of a module cannot have."""
    return nn.ParameterDict({n.replace(".", "/"): p for n, p in module.named_parameters() if p.requires_grad})


class RunLog:
    """Appends scalars to `folder/log.jsonl` and to TensorBoard event files beside it.

    On resuming after step s, entries of later steps are dropped first: the file reads as one unbroken run.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path, self._picture = folder / "log.jsonl", folder / "curves.png"
        kept = [entry for entry in read_log(self.path) if entry["step"] <= resume_step]
        write_whole(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._is_drawn = False
        self._events = folder / "tensorboard"
        with faults_named(self._events):
            self.writer = SummaryWriter(str(self._events), purge_step=resume_step + 1)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Logs `scalars` at `step`."""
        rounded = {name: float(f"{value:.5g}") for name, value in scalars.items()}
        append_line(self.path, json.dumps({"step": step, **rounded}))
        self._is_drawn = False
        with faults_named(self._events):
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)

    def draw(self) -> None:
        """Draws what was logged against the step into curves.png."""
        if not self._is_drawn:
            draw_curves(read_log(self.path), self._picture)
            self._is_drawn = True

    def close(self) -> None:
        """Draws what is not drawn yet, and flushes TensorBoard's writer."""
        self.draw()
        with faults_named(self._events):
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
