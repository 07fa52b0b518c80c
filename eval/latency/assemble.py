"""Models to time, and pictures to ask them about.

A checkpoint has its own weights; the shape of a recipe's base gets random ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    SiglipVisionModel,
)

import tofc
from encoders import VisionEncoder
from entropy import FeatureCodec, TrainableCodec
from eval.latency.config import ALL, ModelConfig
from tofc.config import TILINGS, CheckpointConfig, load_yaml
from tofc.errors import UserError
from tofc.features import Features
from tofc.language.load import language_skeleton
from tofc.language.prompt import Prompt
from tofc.training.estimate import base_shape
from tofc.training.settings import TrainConfig
from tofc.vision import TorchVision

_CALIBRATION_TOKENS = 512


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what it is called; equal to itself alone.

    A request of a data set has its question and the words of its true answer; the rest are asked the same.
    """

    name: str
    image: Image.Image
    question: str | None = None
    truth: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.height, self.image.width


class Assembled:
    """A model on one machine: `seeing` makes features and codes them, `language` answers.

    Where networks are counted and not run (`runs_on` None), `language` is None and a recipe's tower ends with
    its embeddings. `text_tokens` are those of a prompt beside the picture's.
    """

    def __init__(
        self,
        seeing: tofc.Device,
        language: LlavaOnevisionForConditionalGeneration | None,
        text_tokens: int,
        asking: tuple[tofc.Edge, str] | None = None,
    ) -> None:
        self.seeing = seeing
        self.shape: LlavaOnevisionConfig = seeing.base_config
        self.language = language
        self.text_tokens = text_tokens
        self.runs_on = self.vision.device if language is not None else None
        self._asking = asking
        self._features: dict[tuple[Picture, str, int | str], Features] = {}
        self._answered: dict[Picture, int] = {}

    @property
    def vision(self) -> TorchVision:
        """Processor and tower; UserError for an exported device, which is not what an edge computes with."""
        if not isinstance(self.seeing.vision, TorchVision):
            raise UserError("an exported device cannot be timed here; give the checkpoint it was made from")
        return self.seeing.vision

    @property
    def codec(self) -> FeatureCodec:
        """The codec; UserError where a checkpoint has none."""
        if self.seeing.codec is None:
            raise UserError(
                "a plain LLaVA-OneVision model has no codec; give a checkpoint of tofc or a recipe"
            )
        return self.seeing.codec

    @cached_property
    def devices(self) -> dict[str, tofc.Device]:
        """`seeing` with each tiling."""
        return {tiling: self.seeing.with_tiling(tiling) for tiling in TILINGS}

    def features(self, picture: Picture, tiling: str, tokens: int | str) -> Features:
        """Uncoded features; a picture is looked at once for all systems."""
        key = (picture, tiling, tokens)
        if key not in self._features:
            device = self.devices[tiling]
            self._features[key] = (
                device.features(picture.image, ALL)
                if tokens == ALL
                else device.merge(self.features(picture, tiling, ALL), tokens)
            )
        return self._features[key]

    def answer_tokens(self, picture: Picture, usual: int) -> int:
        """Tokens of an answer, its end included, at least 2: what this model says about a request of a data
        set, or the words of the true answer where it has random weights; `usual` for all other pictures."""
        if picture.question is None:
            return usual
        if self._asking is None:
            return max(2, len(picture.truth.split()) + 1)
        if picture not in self._answered:
            edge = self._asking[0]
            features = self.features(picture, self.seeing.config.tiling, ALL)
            said = edge.answer_many([(features, picture.question)])[0].tokens
            self._answered[picture] = max(2, len(said) + 1)
        return self._answered[picture]

    def prompt(self, embeddings: torch.Tensor, question: str | None = None) -> Prompt:
        """A prompt about a picture that was projected, [n, D], with its own question or that of all."""
        if self._asking is not None:
            edge, usual = self._asking
            question = usual if question is None else question
            return Prompt.build(edge.tokenizer, edge.template, self.shape, question, [embeddings])
        visual, text = self.shape.image_token_index, 0
        ids = [text] * (self.text_tokens // 2) + [visual] * embeddings.shape[0]
        ids += [text] * (self.text_tokens - self.text_tokens // 2)
        return Prompt(torch.tensor(ids), [embeddings], {})


def assemble(
    model: ModelConfig, runs_on: torch.device | None, question: str, text_tokens: int, seed: int
) -> Assembled:
    """A model whose networks run on `runs_on`, or are counted where that is None.

    Errors of `Device.from_pretrained` and `load_yaml`.
    """
    if model.recipe is not None:
        recipe = load_yaml(model.recipe, TrainConfig)
        return _random(recipe, base_shape(recipe.base), runs_on, text_tokens, seed)
    assert model.checkpoint is not None
    if runs_on is None:
        return Assembled(tofc.Device.from_pretrained(model.checkpoint), None, text_tokens)
    seeing = tofc.Device.from_pretrained(model.checkpoint, device=runs_on)
    edge = tofc.Edge.from_pretrained(model.checkpoint, device=runs_on)
    prompt = Prompt.build(edge.tokenizer, edge.template, seeing.base_config, question, [torch.empty(1, 1)])
    return Assembled(seeing, edge.model, prompt.length - 1, (edge, question))


def _random(
    recipe: TrainConfig,
    shape: LlavaOnevisionConfig,
    runs_on: torch.device | None,
    text_tokens: int,
    seed: int,
) -> Assembled:
    dtype = torch.bfloat16 if runs_on is not None and runs_on.type == "cuda" else torch.float32
    where = torch.device("cpu") if runs_on is None else runs_on
    encoder = (
        random_encoder(shape, None if runs_on else 0, seed).to(where, dtype).eval().requires_grad_(False)
    )
    config = CheckpointConfig(tiling="base", merging=recipe.checkpoint.merging)
    seeing = tofc.Device(
        TorchVision(encoder, _image_processor(shape), shape), config, untrained_codec(recipe, seed)
    )
    language = None if runs_on is None else random_language_side(shape, where, dtype, seed)
    return Assembled(seeing, language, text_tokens)


def random_encoder(shape: LlavaOnevisionConfig, layer: int | None, seed: int) -> VisionEncoder:
    """The tower with random weights; with `layer` 0 its embeddings alone."""
    vision: Any = copy.deepcopy(shape.vision_config)
    if layer == 0:
        vision.num_hidden_layers = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionEncoder(SiglipVisionModel(vision), -1 if layer is None else layer)


def _image_processor(shape: LlavaOnevisionConfig) -> LlavaOnevisionImageProcessor:
    """The stock processor; the class's own mean and deviation are CLIP's, not SigLIP's."""
    vision: Any = shape.vision_config
    side, half = vision.image_size, [0.5] * 3
    return LlavaOnevisionImageProcessor(
        size={"height": side, "width": side},
        image_grid_pinpoints=shape.image_grid_pinpoints or [],
        image_mean=half,
        image_std=half,
    )


def untrained_codec(recipe: TrainConfig, seed: int) -> FeatureCodec:
    """A codec of the recipe's shape, fitted to noise: as fast as a trained one."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, _CALIBRATION_TOKENS, recipe.codec.width, generator=generator)
    trainable = TrainableCodec(recipe.codec, seed=seed)
    trainable.fit_transform(features)
    return trainable.export(features)


def random_language_side(
    shape: LlavaOnevisionConfig, where: torch.device, dtype: torch.dtype, seed: int
) -> LlavaOnevisionForConditionalGeneration:
    """Projector and language model with random weights, made where they run."""
    model = language_skeleton(shape)
    nn.Module.to(model, dtype)  # transformers' own `to` is declared for whole models alone
    model.to_empty(device=where)
    model.tie_weights()
    text = model.model.language_model
    text.rotary_emb = type(text.rotary_emb)(config=text.config).to(where)
    generator = torch.Generator(where).manual_seed(seed)
    for parameter in model.requires_grad_(False).parameters():
        parameter.normal_(0.0, 0.02, generator=generator)
    return model
