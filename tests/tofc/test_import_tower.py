"""`tofc import-tower`: CLIP towers of transformers and open_clip become bases, from file to packet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import CLIPVisionConfig, CLIPVisionModel
from typer.testing import CliRunner

import tofc
from tests.tofc.familial.test_familial_training import ADAPTED
from tofc.cli.app import app
from tofc.config import from_mapping
from tofc.training.codec import run
from tofc.training.import_tower import CLIP_MEAN, CLIP_STD
from tofc.training.settings import TrainConfig


def clip_tower(folder: Path, **shape: int) -> CLIPVisionModel:
    config = CLIPVisionConfig(**shape, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tower = CLIPVisionModel(config).eval()
    tower.save_pretrained(folder)
    return tower


TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 56, "patch_size": 8,
}  # fmt: skip
# CLIP ViT-L/14-336, but for its depth of 24.
PUBLISHED = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip


@pytest.mark.parametrize("shape, tokens", [(TINY, 49), (PUBLISHED, 576)])
def test_features_are_those_of_the_tower(
    shape: dict[str, int], tokens: int, base_folder: Path, tmp_path: Path
) -> None:
    """Of the last but one block, without CLS, of pictures normalised as CLIP's."""
    tower = clip_tower(tmp_path / "clip", **shape)
    words = ["import-tower", str(tmp_path / "clip"), str(tmp_path / "base"), "--layer", "-2"]
    done = CliRunner().invoke(app, [*words, "--language", str(base_folder)])
    assert done.exit_code == 0, done.output
    side = shape["image_size"]
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    device = tofc.Device.from_pretrained(tmp_path / "base").with_tiling("base")
    features = device.features(Image.fromarray(picture), "all").tokens
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        states = tower((pixels - mean) / std, output_hidden_states=True).hidden_states
    assert features.shape == (tokens, shape["hidden_size"])
    torch.testing.assert_close(features, states[-2][0, 1:], rtol=1e-3, atol=1e-4)


def test_from_a_tower_to_a_packet(base_folder: Path, tmp_path: Path) -> None:
    clip_tower(tmp_path / "clip", **TINY)
    words = ["import-tower", str(tmp_path / "clip"), str(tmp_path / "base"), "--layer", "-2"]
    assert CliRunner().invoke(app, [*words, "--language", str(base_folder)]).exit_code == 0
    data = {**ADAPTED["data"], "options": {"size": 56, "patch": 8, "questions": 2, "describe_share": 0.0}}
    config = from_mapping(
        TrainConfig, {**ADAPTED, "data": data, "base": str(tmp_path / "base"), "merge_adapters": True}, "test"
    )
    folder = run(config, tmp_path / "out", Console(quiet=True))
    packet = tofc.Device.from_pretrained(folder).encode(Image.new("RGB", (80, 60), "red"), quality=2)
    assert tofc.Edge.from_pretrained(folder).answer(bytes(packet), "What colour?").tokens is not None
    assert CliRunner().invoke(app, words).exit_code == 2  # the folder is taken


def test_what_is_no_tower_is_refused(base_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    done = CliRunner().invoke(app, ["import-tower", str(tmp_path), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "no vision tower" in done.output
