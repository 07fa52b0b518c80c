"""A tiny checkpoint with a family: random weights, five blocks, two exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

import tofc
from entropy import FeatureCodec
from tofc.config import CheckpointConfig, MergingConfig
from tofc.familial.branches import Branch, decomposed_block
from tofc.familial.decomposition import spectra, watch_inputs
from tofc.familial.store import save_family
from tofc.familial.views import Family, main_spec
from tofc.language.model import text_model
from tofc.model import save_checkpoint

EXITS = (1, 3)
RATIOS = (0.5, 1.0)


def decomposed(text: Any, exit_layer: int, inputs: torch.Tensor) -> Branch:
    """The branch after `exit_layer` blocks, calibrated on embeddings [B, T, D]."""
    block = text.layers[exit_layer]
    with watch_inputs({exit_layer: block}) as seen, torch.no_grad():
        text(inputs_embeds=inputs)
    return Branch(
        f"e{exit_layer}", exit_layer, [decomposed_block(block, spectra(block, seen[exit_layer]))], RATIOS
    )


class Made(NamedTuple):
    """A checkpoint folder with a family, and the family as it was before it was written."""

    folder: Path
    family: Family


@pytest.fixture(scope="session")
def deep_base(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model with five blocks of language model."""
    folder = tmp_path_factory.mktemp("familial") / "base"
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(base_folder)
    config = model.config
    config.text_config.num_hidden_layers = 5
    config.text_config.layer_types = ["full_attention"] * 5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    for file in base_folder.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    assert json.loads((folder / "config.json").read_text())["text_config"]["num_hidden_layers"] == 5
    return folder


@pytest.fixture(scope="session")
def made(deep_base: Path, checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A checkpoint with branches after blocks 1 and 3, complete and halved."""
    edge = tofc.Edge.from_pretrained(checkpoint_folder)
    model = tofc.Edge.from_pretrained(deep_base).model
    text = text_model(model)
    inputs = torch.randn(8, 32, text.config.hidden_size, generator=torch.Generator().manual_seed(0))
    branches = [decomposed(text, exit_layer, inputs) for exit_layer in EXITS]
    root = tmp_path_factory.mktemp("familial")
    stored = save_family(root / "family", deep_base, main_spec(model), branches, dtype=torch.float32)
    assert edge.codec is not None
    config = CheckpointConfig(merging=MergingConfig(tokens=12))
    folder = save_checkpoint(root / "tiny", deep_base, edge.codec, config, family=stored)
    return Made(folder, Family(model, branches))


@pytest.fixture(scope="session")
def tiny_width_codec(checkpoint_folder: Path) -> FeatureCodec:
    """A codec for features of width 32."""
    return FeatureCodec.load(checkpoint_folder / "codec-integer.safetensors")
