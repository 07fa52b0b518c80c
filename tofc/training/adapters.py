"""LoRA on vision tower and language model, the projector trained whole: what fine-tuning changes of a base.

Source: AI Flow (arXiv 2506.12479), section II-B1, Evaluations; E. J. Hu et al., "LoRA", ICLR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import LlavaOnevisionForConditionalGeneration

if TYPE_CHECKING:
    from peft import PeftModel

_TOWER = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
_LANGUAGE = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank adapters on every linear layer of the blocks; the projector is trained whole beside them.

    `rank` and `alpha` as in LoRA (updates are scaled by alpha / rank); `tower` and `language` say which side
    gets them, `projector` whether that is trained; `learning_rate` is AdamW's for adapters and projector, and
    times `tower_ratio` that of the tower's adapters.
    """

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0
    tower: bool = True
    language: bool = True
    projector: bool = True
    learning_rate: float = 2e-4
    tower_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or self.learning_rate <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "adapters want rank >= 1, alpha and learning_rate above 0, dropout in [0, 1); got rank "
                f"{self.rank}, alpha {self.alpha}, learning_rate {self.learning_rate}, dropout {self.dropout}"
            )
        if self.tower_ratio <= 0:
            raise ValueError(f"adapters.tower_ratio is {self.tower_ratio}: to leave the tower, tower: false")
        if not (self.tower or self.language):
            raise ValueError("adapters with tower and language both false: leave adapters out instead")


def attach(model: LlavaOnevisionForConditionalGeneration, config: AdapterConfig, seed: int) -> PeftModel:
    """Puts adapters into `model` (in place) and makes them and the projector its only trainable parameters.

    The adapters start as zero updates. Raises ImportError naming what to install where peft is missing.
    """
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(
            "adapters need peft: pip install 'tofc[train]', or train with adapters: null"
        ) from error
    sides = [pattern for pattern, wanted in ((_TOWER, config.tower), (_LANGUAGE, config.language)) if wanted]
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="|".join(f"({side})" for side in sides),
        modules_to_save=["multi_modal_projector"] if config.projector else None,
    )
    with torch.random.fork_rng(devices=[]):  # peft draws the first factor from the global generator
        torch.manual_seed(seed)
        tuned = get_peft_model(model, lora)
    for parameter in tuned.parameters():
        if parameter.requires_grad:  # the projector too: bfloat16 would round small updates away
            parameter.data = parameter.data.float()
    return tuned
