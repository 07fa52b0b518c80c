"""Training state on disk: one safetensors file, no pickle, replaced in one move: no kill can tear it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tofc.writing import whole_file

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
