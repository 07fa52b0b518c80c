"""Features bitwise equal to the stock model's, read out of every spelling and layout of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    LlavaOnevisionConfig,
    LlavaOnevisionModel,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from encoders import VisionEncoder

SCENES_TINY: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": False,
}
SMALL = SCENES_TINY | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "image_size": 32}
SMALL["num_attention_heads"] = 2
SO400M = SCENES_TINY | {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
SO400M |= {"num_hidden_layers": 1, "image_size": 384, "patch_size": 14}
CLIP_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
CLIP_SMALL = {key: value for key, value in SMALL.items() if key != "vision_use_head"}


def pixels(side: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def llava(
    vision: SiglipVisionConfig | CLIPVisionConfig, layer: int = -1, strategy: str = "full"
) -> LlavaOnevisionModel:
    text = Qwen2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        vocab_size=32,
    )
    side = vision.image_size
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_grid_pinpoints=[[side, side]],
        image_token_index=5,
        video_token_index=6,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    torch.manual_seed(0)
    return LlavaOnevisionModel(config).eval()


def stock_features(model: LlavaOnevisionModel, images: torch.Tensor) -> torch.Tensor:
    """What the stock model projects: the input of its projector, one base tile and one grid tile an image."""
    seen: list[torch.Tensor] = []
    hook = model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    side = images.shape[-1]
    tiles = images[:, None].expand(-1, 2, -1, -1, -1)
    model.get_image_features(tiles, torch.tensor([[side, side]] * len(images)))
    hook.remove()
    return seen[0][::2]  # [B, N, C]; both tiles of an image hold the same picture


def assert_same_features(model: LlavaOnevisionModel, encoder: VisionEncoder, batch: int = 2) -> None:
    images = pixels(encoder.image_size, batch)
    with torch.no_grad():
        expected = stock_features(model, images)
        # The same batch as the stock model's: kernels may round differently for another one.
        features = encoder(images.repeat_interleave(2, 0))[::2]
    assert torch.equal(features, expected)
    assert features.shape == (batch, encoder.num_tokens, encoder.width)


def test_the_stock_features_at_the_geometry_of_scenes_tiny(tmp_path: Path) -> None:
    model = llava(SiglipVisionConfig(**SCENES_TINY))
    model.save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path)
    assert_same_features(model, encoder)
    assert (encoder.width, encoder.num_tokens, encoder.grid, encoder.image_size) == (192, 196, (14, 14), 224)
    assert not encoder.training


def test_the_stock_features_with_so400m_blocks() -> None:
    model = llava(SiglipVisionConfig(**SO400M))
    encoder = VisionEncoder(model.vision_tower)
    assert_same_features(model, encoder, batch=1)
    assert (encoder.width, encoder.num_tokens, encoder.grid) == (1152, 729, (27, 27))


@pytest.mark.parametrize("layer, strategy, tokens", [(-2, "default", 576), (-1, "full", 577)])
def test_the_hidden_state_of_a_clip_large_tower(layer: int, strategy: str, tokens: int) -> None:
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(**CLIP_L)).eval()
    encoder = VisionEncoder(tower, layer, drop_cls=strategy == "default")
    images = pixels(336, 1)
    with torch.no_grad():
        expected = tower(images, output_hidden_states=True).hidden_states[layer]
        features = encoder(images)
    assert torch.equal(features, expected[:, 577 - tokens :])
    assert (encoder.width, encoder.num_tokens, encoder.grid) == (1024, tokens, (24, 24))


def test_some_patches_alone() -> None:
    """They keep their places, and do not see the others."""
    encoder = VisionEncoder(llava(SiglipVisionConfig(**SMALL)).vision_tower)
    images, patches = pixels(32), torch.tensor([[3, 1], [0, 2]])
    others = images.clone()
    others[0, :, :16, :16] = 0.0  # patch 0 of the first
    others[1, :, 16:, 16:] = 0.0  # patch 3 of the second
    with torch.no_grad():
        whole, found = encoder(images), encoder(images, patches=patches)
        every = encoder(images, patches=torch.tensor([[3, 1, 0, 2]] * 2))
        assert torch.equal(found, encoder(others, patches=patches))
        assert not torch.allclose(whole, encoder(others))
    torch.testing.assert_close(every, whole[:, [3, 1, 0, 2]])
    assert found.shape == (2, 2, encoder.width)
    assert not torch.allclose(found[0], whole[0, [3, 1]])
    clip = VisionEncoder(CLIPVisionModel(CLIPVisionConfig(**CLIP_SMALL)))
    with pytest.raises(ValueError, match="CLS"):
        clip(images, patches=patches)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -4])
def test_every_layer_of_both_kinds(layer: int) -> None:
    images = pixels(32)
    for tower in (
        SiglipVisionModel(SiglipVisionConfig(**SMALL)),
        CLIPVisionModel(CLIPVisionConfig(**CLIP_SMALL)),
    ):
        with torch.no_grad():
            expected = tower.eval()(images, output_hidden_states=True).hidden_states[layer]
            assert torch.equal(VisionEncoder(tower, layer)(images), expected)


def rename(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """A LlavaOnevisionModel's weights as another release spells them."""
    tower = {
        prefix + key.removeprefix("vision_tower.").removeprefix("vision_model."): value
        for key, value in state.items()
        if key.startswith("vision_tower.")
    }
    return tower | {key: value for key, value in state.items() if not key.startswith("vision_tower.")}


@pytest.mark.parametrize(
    "prefix",
    [
        "vision_tower.vision_model.",
        "model.vision_tower.vision_model.",
        "vision_tower.",
        "model.vision_tower.",
    ],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_every_spelling_of_the_weights(tmp_path: Path, prefix: str, sharded: bool) -> None:
    model = llava(SiglipVisionConfig(**SMALL), layer=-2)
    model.save_pretrained(tmp_path)
    state = rename(load_file(tmp_path / "model.safetensors"), prefix)
    (tmp_path / "model.safetensors").unlink()
    if sharded:
        language = [key for key in state if not key.startswith(prefix)]
        vision = sorted(key for key in state if key.startswith(prefix))
        # The language model's shard is named in the index and need not even be there.
        shards = {"model-1.safetensors": vision[::2], "model-2.safetensors": vision[1::2]}
        for file, keys in shards.items():
            save_file({key: state[key] for key in keys}, tmp_path / file)
        weight_map = {key: file for file, keys in shards.items() for key in keys}
        weight_map |= dict.fromkeys(language, "model-3.safetensors")
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (tmp_path / "model.safetensors.index.json").write_text(index)
    else:
        save_file(state, tmp_path / "model.safetensors")
    encoder = VisionEncoder.from_pretrained(tmp_path)
    assert_same_features(model, encoder)
    assert len(encoder.tower.state_dict()) < len(model.vision_tower.state_dict())  # no last block


@pytest.mark.parametrize(
    "make, layer",
    [
        (lambda: SiglipVisionModel(SiglipVisionConfig(**SMALL | {"vision_use_head": True})), -1),
        (lambda: CLIPVisionModel(CLIPVisionConfig(**CLIP_SMALL)), -2),
        (lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_SMALL)), -1),
    ],
)
def test_a_tower_by_itself(tmp_path: Path, make: Callable[[], PreTrainedModel], layer: int) -> None:
    model = make().eval()
    model.save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path, layer=layer, dtype=torch.float64)
    images = pixels(32).double()
    with torch.no_grad():
        tower = getattr(model, "vision_model", model).double()
        expected = tower(images, output_hidden_states=True).hidden_states[layer]
        assert torch.equal(encoder(images), expected[:, int(encoder.has_cls) :])


def test_the_layer_and_cls_of_the_checkpoints_config(tmp_path: Path) -> None:
    llava(CLIPVisionConfig(**CLIP_SMALL), layer=-2, strategy="default").save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path)
    assert (encoder.layer, encoder.drop_cls, encoder.num_tokens) == (2, True, 4)
    assert VisionEncoder.from_pretrained(tmp_path, drop_cls=False).num_tokens == 5


def test_missing_and_unexpected_weights_are_named(tmp_path: Path) -> None:
    llava(SiglipVisionConfig(**SMALL)).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    gone = state.pop("vision_tower.encoder.layers.1.mlp.fc1.bias")
    state["vision_tower.encoder.layers.1.mlp.fc3.bias"] = gone
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \(.*1\.mlp\.fc1\.bias\), 1 unexpected \(.*fc3"):
        VisionEncoder.from_pretrained(tmp_path)
    state["vision_tower.encoder.layers.1.mlp.fc1.bias"] = torch.zeros(7)
    del state["vision_tower.encoder.layers.1.mlp.fc3.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"fc1\.bias has shape \[7\]"):
        VisionEncoder.from_pretrained(tmp_path)


def test_what_is_no_checkpoint_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        VisionEncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert'"):
        VisionEncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model", **SMALL}))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        VisionEncoder.from_pretrained(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no folder here"):
        VisionEncoder.from_pretrained("nobody/has-this-model")


def test_wrong_towers_layers_and_pixels_are_refused() -> None:
    siglip = SiglipVisionModel(SiglipVisionConfig(**SMALL))
    with pytest.raises(ValueError, match="no CLS token"):
        VisionEncoder(siglip, drop_cls=True)
    with pytest.raises(ValueError, match="out of range"):
        VisionEncoder(siglip, layer=4)
    with pytest.raises(ValueError, match="not a Linear"):
        VisionEncoder(torch.nn.Linear(2, 2))  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match=r"\[B, 3, 32, 32\]"):
        VisionEncoder(siglip)(pixels(48))


def test_gradients_reach_the_tower_that_was_given() -> None:
    tower = SiglipVisionModel(SiglipVisionConfig(**SMALL))
    VisionEncoder(tower)(pixels(32)).square().mean().backward()
    assert tower.state_dict(keep_vars=True)["embeddings.patch_embedding.weight"].grad is not None
