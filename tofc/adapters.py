"""Fine-tuning that lies beside a base model: LoRA and a projector of its own, added when the base is read.

The folder is peft's (`adapter_config.json`, `adapter_model.safetensors`), so that peft reads it too; reading
it here takes neither peft nor the other half of the model. Source: E. J. Hu et al., "LoRA", ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.files import fetch, open_tensors, read_json
from tofc.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_HEAD = "base_model.model."
TOWER, LANGUAGE_SIDE = "model.vision_tower.", ""
_IN, _OUT = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Change:
    """What is done to the weight `name` of the base: `left` [out, r] @ `right` [r, in] is added, float32.

    Without `right`, `left` takes the weight's place.
    """

    name: str
    left: NDArray[np.float32]
    right: NDArray[np.float32] | None = None


def read_adapters(
    folder: Path, under: str, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[Change]:
    """The changes that `folder` describes to one side of the model, under names without `under`.

    `under` is `TOWER`, or `LANGUAGE_SIDE` for all but the tower; names that are not `wanted` are left out.
    Raises CheckpointError where the folder is not whole.
    """
    try:
        config = read_json(fetch(folder, CONFIG_FILE))
        with open_tensors(fetch(folder, WEIGHTS_FILE), framework="np") as stored:
            tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a whole folder of adapters: {error}") from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise CheckpointError(f"{folder}: only plain LoRA adapters are known, not {config.get('peft_type')}")
    scale = np.float32(float(config["lora_alpha"]) / int(config["r"]))
    names = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items()}
    for name, tensor in names.items():
        is_tower = name.startswith(TOWER)
        if is_tower != (under == TOWER) or name.endswith(_IN) or not wanted(name):
            continue
        left = tensor.astype(np.float32)
        if not name.endswith(_OUT):
            yield Change(name.removeprefix(under), left)
            continue
        stem = name.removesuffix(_OUT)
        if stem + _IN not in names:
            raise CheckpointError(f"{folder}: {name} has no counterpart {_IN}: get the whole folder")
        right = names[stem + _IN].astype(np.float32)
        yield Change(f"{stem}.weight".removeprefix(under), scale * left, right)


def add_adapters(
    module: nn.Module, folder: Path, under: str, wanted: Callable[[str], bool] = lambda name: True
) -> None:
    """Adds the changes of `read_adapters` to the weights of `module`, in place.

    Raises CheckpointError where the folder is not whole or belongs to another model.
    """
    import torch

    for change in read_adapters(folder, under, wanted):
        try:
            weight = module.get_parameter(change.name)
        except AttributeError:
            raise foreign(folder, change.name) from None
        left = torch.from_numpy(change.left).to(weight.device)
        with torch.no_grad():
            if change.right is None:
                weight.copy_(left)
            else:
                weight.copy_(weight.float() + left @ torch.from_numpy(change.right).to(weight.device))


def foreign(folder: Path, name: str) -> CheckpointError:
    """The error for adapters that change a weight which the base does not have."""
    return CheckpointError(
        f"{folder} changes {name}, which the base model does not have: these adapters are of another base"
    )
