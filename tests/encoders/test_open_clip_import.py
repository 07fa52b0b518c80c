"""Towers in open_clip's format give the same features after conversion, at full width and reduced depth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import SiglipVisionModel

from encoders import VisionEncoder
from encoders.open_clip_import import convert_visual, load_open_clip

open_clip = pytest.importorskip("open_clip", reason="open_clip comes with the train extra")

TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
SMALL = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TOLERANCE = 1e-5  # the same sums in another order, in float32


def randomised(module: nn.Module) -> nn.Module:
    """Every weight random, so that no pair of them can change places unseen (new biases are all zero)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)
    return module.eval()


def clip_visual(vision: dict, quick_gelu: bool = False) -> nn.Module:
    return randomised(open_clip.CLIP(16, vision, TEXT, quick_gelu=quick_gelu)).visual


def timm_visual(name: str, image_size: int, depth: int) -> nn.Module:
    from open_clip.timm_model import TimmModel

    with torch.device("meta"):  # most of its blocks are never needed
        visual = TimmModel(name, embed_dim=1, image_size=image_size, pool="map", proj="none")
    visual.trunk.blocks = visual.trunk.blocks[:depth]
    visual.to_empty(device="cpu")
    with torch.no_grad():
        for key, weight in visual.named_parameters():
            weight.fill_(float("norm" in key and key.endswith("weight")))
    return randomised(visual)


def assert_same_features(visual: nn.Module, encoder: VisionEncoder) -> None:
    side = encoder.image_size
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = visual.forward_intermediates(
            images, indices=[encoder.layer - 1], output_fmt="NLC", intermediates_only=True
        )["image_intermediates"][0]
        features = encoder(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    "name, activation", [("ViT-L-14-336", "gelu"), ("ViT-L-14-336-quickgelu", "quick_gelu")]
)
def test_clip_large_at_full_width(name: str, activation: str) -> None:
    config = open_clip.get_model_config(name)
    visual = clip_visual(config["vision_cfg"] | {"layers": 2}, config.get("quick_gelu", False))
    tower = convert_visual(visual)
    assert (tower.config.hidden_size, tower.config.hidden_act) == (1024, activation)
    assert_same_features(visual, VisionEncoder(tower, -1, drop_cls=True))
    assert_same_features(visual, VisionEncoder(tower, -2, drop_cls=True))


def test_siglip_so400m_at_full_width() -> None:
    config = open_clip.get_model_config("ViT-SO400M-14-SigLIP-384")["vision_cfg"]
    visual = timm_visual(config["timm_model_name"], config["image_size"], depth=1)
    tower = convert_visual(visual)
    assert isinstance(tower, SiglipVisionModel)
    assert (tower.config.hidden_size, tower.config.hidden_act) == (1152, "gelu")  # exact, as timm computes it
    assert_same_features(visual, VisionEncoder(tower))


def test_a_timm_tower_with_tanh_keeps_it() -> None:
    visual = timm_visual("vit_base_patch16_siglip_224", 224, depth=1)
    visual.trunk.blocks[0].mlp.act = nn.GELU(approximate="tanh")
    tower = convert_visual(visual)
    assert tower.config.hidden_act == "gelu_pytorch_tanh"
    assert_same_features(visual, VisionEncoder(tower))


@pytest.fixture
def architecture(tmp_path: Path) -> str:
    """A small architecture, registered with open_clip as a user's own is."""
    name = "tofc-test-small"
    (tmp_path / f"{name}.json").write_text(
        json.dumps({"embed_dim": 16, "quick_gelu": True, "vision_cfg": SMALL, "text_cfg": TEXT})
    )
    open_clip.add_model_config(tmp_path / f"{name}.json")
    return name


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", ["", "visual.", "module.visual."])
def test_checkpoint_files(tmp_path: Path, architecture: str, suffix: str, prefix: str) -> None:
    visual = clip_visual(SMALL, quick_gelu=True)
    state = {prefix + key: value.clone() for key, value in visual.state_dict().items()}
    if prefix:
        state[prefix.removesuffix("visual.") + "logit_scale"] = torch.zeros(())  # of the rest of the model
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": state, "epoch": 3}, file)
    else:
        save_file(state, file)
    encoder = load_open_clip(architecture, file)
    assert encoder.drop_cls
    assert encoder.num_tokens == 4
    assert_same_features(visual, encoder)


def test_a_converted_tower_is_saved_and_read_as_any_other(tmp_path: Path) -> None:
    tower = convert_visual(clip_visual(SMALL))
    tower.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        again = VisionEncoder.from_pretrained(tmp_path)(images)
        assert torch.equal(again, VisionEncoder(tower, drop_cls=True)(images))


def test_weights_of_another_tower_are_refused() -> None:
    visual = clip_visual(SMALL)
    state = dict(visual.state_dict())
    state["transformer.resblocks.0.ls_1.gamma"] = torch.ones(32)
    with pytest.raises(ValueError, match=r"ls_1\.gamma"):
        convert_visual(visual, state)
    state = dict(visual.state_dict())
    del state["ln_pre.bias"]
    with pytest.raises(ValueError, match=r"1 missing \(pre_layrnorm\.bias\)"):
        convert_visual(visual, state)
    deeper = clip_visual(SMALL | {"layers": 3})
    with pytest.raises(ValueError, match="unexpected"):
        convert_visual(visual, deeper.state_dict())
    wider = clip_visual(SMALL | {"width": 48})
    with pytest.raises(ValueError, match="has shape"):
        convert_visual(visual, wider.state_dict())


@pytest.mark.parametrize("options", [{"no_ln_pre": True}, {"ls_init_value": 0.1}, {"qk_norm": True}])
def test_towers_without_a_counterpart_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"no counterpart|no place"):
        convert_visual(clip_visual(SMALL | options))


def test_residual_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="ModifiedResNet"):
        convert_visual(clip_visual({"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}))


def test_unknown_names_and_files_are_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        load_open_clip("ViT-L-14-336", tmp_path / "weights.pt")
    (tmp_path / "weights.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="no architecture 'ViT-L-15'"):
        load_open_clip("ViT-L-15", tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="plain tensors"):
        load_open_clip("ViT-L-14-336", tmp_path / "weights.pt")
