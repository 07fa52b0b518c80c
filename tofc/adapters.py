"""Fine-tuning that lies beside a base model: LoRA and a projector of its own, added when the base is read.

The folder is peft's (`adapter_config.json`, `adapter_model.safetensors`), so that peft reads it too; reading
it here takes neither peft nor the other half of the model. Source: E. J. Hu et al., "LoRA", ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from encoders.files import fetch, open_tensors, read_json
from tofc.errors import CheckpointError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_HEAD = "base_model.model."
TOWER, LANGUAGE_SIDE = "model.vision_tower.", ""
_IN, _OUT = ".lora_A.weight", ".lora_B.weight"


@torch.no_grad()
def add_adapters(
    module: nn.Module, folder: Path, under: str, wanted: Callable[[str], bool] = lambda name: True
) -> None:
    """Adds the change that `folder` describes to the weights of `module`, in place.

    `under` says what the module is of the whole model: `TOWER`, or `LANGUAGE_SIDE` for all but the tower.
    Names that are not `wanted` are left out, for modules that hold a part.
    Raises CheckpointError where the folder is not whole or belongs to another model.
    """
    try:
        config = read_json(fetch(folder, CONFIG_FILE))
        with open_tensors(fetch(folder, WEIGHTS_FILE)) as stored:
            tensors = {name: stored.get_tensor(name) for name in list(stored.keys())}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a whole folder of adapters: {error}") from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise CheckpointError(f"{folder}: only plain LoRA adapters are known, not {config.get('peft_type')}")
    scale = float(config["lora_alpha"]) / int(config["r"])
    names = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items()}
    for name, tensor in names.items():
        is_tower = name.startswith(TOWER)
        if is_tower != (under == TOWER) or name.endswith(_IN) or not wanted(name):
            continue
        if name.endswith(_OUT):
            stem = name.removesuffix(_OUT)
            if stem + _IN not in names:
                raise CheckpointError(f"{folder}: {name} has no counterpart {_IN}: get the whole folder")
            weight = _weight(module, f"{stem}.weight".removeprefix(under), folder)
            change = scale * (tensor.float() @ names[stem + _IN].float())
            weight.copy_(weight.float() + change.to(weight.device))
        else:
            weight = _weight(module, name.removeprefix(under), folder)
            weight.copy_(tensor.to(weight.device))


def _weight(module: nn.Module, name: str, folder: Path) -> torch.Tensor:
    try:
        return module.get_parameter(name)
    except AttributeError:
        raise CheckpointError(
            f"{folder} changes {name}, which the base model does not have: these adapters are of another base"
        ) from None
