"""`tofc import-tower`: a published vision tower before a language model, as a base that `tofc train` takes.

The tower ends with the block whose output the model sees (LLaVA-1.5: the last but one of CLIP ViT-L/14-336,
without CLS token), so that the base's own layer is -1. The projector between the two is new and learns with
the codec (`adapters.projector`).
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
)

from encoders import VisionEncoder
from tofc.errors import UserError
from tofc.hub import checkpoint_faults
from tofc.model import load_base_model, save_base
from tofc.writing import whole_folder

_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerSource:
    """A tower: a folder or hub id as transformers writes it, or a file of open_clip's `architecture`.

    `layer` is the hidden state that is seen: None is the checkpoint's own, else the last. `quick_gelu` as for
    `encoders.open_clip_import`.
    """

    source: str
    architecture: str | None = None
    layer: int | None = None
    quick_gelu: bool = False

    def load(self) -> VisionEncoder:
        """The tower's blocks up to `layer`; UserError where the source is not one."""
        try:
            if self.architecture is None:
                return VisionEncoder.from_pretrained(self.source, layer=self.layer)
            from encoders.open_clip_import import load_open_clip

            layer = -1 if self.layer is None else self.layer
            return load_open_clip(self.architecture, self.source, quick_gelu=self.quick_gelu, layer=layer)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{self.source}: {error}") from error


def import_tower(tower: TowerSource, language: str, folder: Path, seed: int = 0) -> Path:
    """Writes a LLaVA-OneVision base of this tower and the language model of the base `language`; returns it.

    Pictures are normalised as CLIP's and SigLIP's own are. UserError for sources that are none.
    """
    encoder = tower.load()
    kind: Any = encoder.tower.config
    kind = copy.deepcopy(kind)
    kind.num_hidden_layers = encoder.layer
    with checkpoint_faults():
        donor = load_base_model(language, "auto")
        old: Any = LlavaOnevisionProcessor.from_pretrained(language)
    config = copy.deepcopy(donor.config)
    was: Any = config.vision_config
    scale = kind.image_size / was.image_size
    config.vision_config = kind
    config.vision_feature_layer = -1
    config.vision_feature_select_strategy = "default" if encoder.drop_cls else "full"
    config.image_grid_pinpoints = [
        [round(scale * side) for side in sides] for sides in config.image_grid_pinpoints or []
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlavaOnevisionForConditionalGeneration(config)
    blocks = {name: _BLOCK.search(name) for name in encoder.tower.state_dict()}
    unseen = {name for name, block in blocks.items() if block is not None and int(block[1]) >= encoder.layer}
    weights = {n: tensor for n, tensor in encoder.tower.state_dict().items() if n not in unseen}
    model.model.vision_tower.load_state_dict(weights)
    model.model.language_model.load_state_dict(donor.model.language_model.state_dict())
    model.lm_head.load_state_dict(donor.lm_head.state_dict())
    model.generation_config = donor.generation_config
    is_clip = isinstance(kind, CLIPVisionConfig)
    images = LlavaOnevisionImageProcessor(
        size={"height": kind.image_size, "width": kind.image_size},
        image_grid_pinpoints=config.image_grid_pinpoints,
        image_mean=list(CLIP_MEAN) if is_clip else [0.5] * 3,
        image_std=list(CLIP_STD) if is_clip else [0.5] * 3,
    )
    processor = LlavaOnevisionProcessor(
        image_processor=images,
        tokenizer=old.tokenizer,
        video_processor=old.video_processor,
        num_image_tokens=encoder.num_tokens,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=old.chat_template,
    )
    with whole_folder(folder) as draft:
        save_base(draft, (model.to(donor.dtype), processor))
    return folder
