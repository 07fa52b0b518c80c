"""The trainable codec on disk, the adapters of a base model, and what a training configuration refuses."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tofc
from entropy import CodecConfig, TrainableCodec
from tofc.adapters import LANGUAGE_SIDE, add_adapters
from tofc.errors import CheckpointError
from tofc.language.load import load_language_side
from tofc.model import save_checkpoint
from tofc.training.adapters import AdapterConfig, attach
from tofc.training.data import DataConfig
from tofc.training.loop import check_share
from tofc.training.settings import TrainConfig
from tofc.training.trainable import (
    idle_experts,
    load_trainable,
    make_codec,
    make_density,
    save_trainable,
)

WIDTH = 32
DATA = DataConfig("nothing:Nothing")


def make_features(width: int) -> torch.Tensor:
    return torch.randn(40, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prior", ["logistic", "entropy_bottleneck"])
def test_a_trainable_codec_comes_back_as_it_was(prior: str, tmp_path: Path) -> None:
    codec = make_codec(CodecConfig(width=16, experts=2, hyper=3), prior, seed=4)
    features = make_features(16).reshape(2, 20, 16)
    codec.fit_transform(features)
    again = load_trainable(save_trainable(codec, tmp_path))
    assert again.config == codec.config
    assert again.export(features).fingerprint == codec.export(features).fingerprint


def test_another_file_is_no_trainable_codec(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "codec.safetensors")
    with pytest.raises(ValueError, match="tofc train"):
        load_trainable(tmp_path / "codec.safetensors")


def test_idle_entropy_models_are_those_under_two_percent() -> None:
    assert idle_experts([0.5, 0.019, 0.461, 0.02]) == [1]


@pytest.mark.parametrize(
    "fault, text",
    [
        ({"tokens": {}}, "tokens"),
        ({"tokens": {"some": 1.0}}, "some"),
        ({"tokens": {"64": -1.0}}, "tokens"),
        ({"uncoded_share": 1.1}, "uncoded_share"),
        ({"rate_weight": (0.0, 1.0)}, "rate_weight"),
        ({"total_steps": 0}, "total_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"save_every": 30}, "log_every"),
        ({"precision": "fp8"}, "fp8"),
        ({"prior": "other"}, "other"),
        ({"codec": CodecConfig(width=8, steps=(1.0, 0.5))}, "8"),
    ],
)
def test_configurations_that_cannot_be(fault: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TrainConfig(base="anywhere", data=DATA, **fault)


def test_adapters_that_change_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="both false"):
        AdapterConfig(tower=False, language=False)
    with pytest.raises(ValueError, match="rank"):
        AdapterConfig(rank=0)
    with pytest.raises(ValueError, match="tower: false"):
        AdapterConfig(tower_ratio=0.0)


def test_an_epoch_is_the_corpus_once() -> None:
    config = TrainConfig(base="x", data=DATA, batch_size=4)
    assert config.steps_for(103) == 25
    assert dataclasses.replace(config, total_steps=7).steps_for(103) == 7
    with pytest.raises(ValueError, match="total_steps"):
        config.steps_for(None)
    with pytest.raises(ValueError, match="multiple of 3"):
        check_share(config.batch_size, 3)


def test_layouts_are_drawn_as_often_as_configured() -> None:
    config = TrainConfig(base="x", data=DATA, tokens={"8": 0.5, "all": 0.5}, uncoded_share=0.2)
    rng = np.random.default_rng(0)
    drawn = [config.draw_layout(rng, asking=True) for _ in range(4000)]
    share = {layout: drawn.count(layout) / 4000 for layout in set(drawn)}
    assert share == pytest.approx({(None, False): 0.2, (8, True): 0.4, (None, True): 0.4}, abs=0.03)
    assert all(config.draw_layout(rng, asking=False)[1] for _ in range(100))


@pytest.fixture
def tuned(base_folder: Path, tmp_path: Path):
    """A base model with adapters and a projector that differ from zero; their folder as peft writes it."""
    from transformers import LlavaOnevisionForConditionalGeneration

    model = LlavaOnevisionForConditionalGeneration.from_pretrained(base_folder, dtype=torch.float32)
    state = torch.get_rng_state()
    adapted = attach(model, AdapterConfig(rank=4, alpha=8), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                assert "lora_" in name or "multi_modal_projector" in name
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(tmp_path / "peft"))
    return adapted, tmp_path / "peft"


def test_adapters_beside_the_base_are_the_merged_model(
    tuned, base_folder: Path, picture, tmp_path: Path
) -> None:
    """Both ways to keep fine-tuning give the same features and the same answers; neither is the base's."""
    adapted, folder = tuned
    codec = make_codec(CodecConfig(width=WIDTH), "logistic", 0).export(make_features(WIDTH)[None])
    beside = save_checkpoint(tmp_path / "beside", base_folder, codec, adapters=folder)
    whole = adapted.merge_and_unload()
    merged_base = tmp_path / "merged-base"
    whole.save_pretrained(merged_base)
    for file in base_folder.iterdir():
        if not (merged_base / file.name).exists():
            (merged_base / file.name).write_bytes(file.read_bytes())
    merged = save_checkpoint(tmp_path / "merged", merged_base, codec)
    plain = save_checkpoint(tmp_path / "plain", base_folder, codec)

    def seen(checkpoint: Path) -> torch.Tensor:
        return tofc.Device.from_pretrained(checkpoint).features(picture, tokens=9).tokens

    assert torch.allclose(seen(beside), seen(merged), atol=1e-4)
    assert not torch.allclose(seen(beside), seen(plain), atol=1e-2)
    sides = [tofc.Edge.from_pretrained(checkpoint).model for checkpoint in (beside, merged, plain)]
    ids = torch.arange(5, 25)[None]
    logits = [side(input_ids=ids).logits for side in sides]
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    assert not torch.allclose(logits[0], logits[2], atol=1e-2)
    probe = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    projected = [side.model.multi_modal_projector(probe) for side in sides]
    assert torch.allclose(projected[0], projected[1], atol=1e-5)
    assert not torch.allclose(projected[0], projected[2], atol=1e-2)


def test_adapters_of_another_model_are_named(tuned, base_folder: Path) -> None:
    folder = tuned[1]
    model = load_language_side(base_folder)
    del model.model.language_model.layers[1]
    with pytest.raises(CheckpointError, match="another base"):
        add_adapters(model, folder, LANGUAGE_SIDE)
    (folder / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="not a whole folder"):
        add_adapters(model, folder, LANGUAGE_SIDE)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(CheckpointError):
        add_adapters(model, folder, LANGUAGE_SIDE)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compressai.entropy_models", None)
    with pytest.raises(ImportError, match=r"tofc\[train\]"):
        make_density("entropy_bottleneck", 0)(3)
    with pytest.raises(ValueError, match="logistic"):
        make_density("other", 0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"tofc\[train\]"):
        attach(None, AdapterConfig(), 0)  # type: ignore[arg-type]


def test_a_codec_without_hyperprior_spends_nothing_on_it() -> None:
    features = make_features(16)[None]
    config = CodecConfig(width=16, experts=1, hyper=3, hyperprior=False)
    codec = TrainableCodec(config, make_density("logistic", 0))
    codec.fit_transform(features)
    output = codec(features, 3)
    (output.rate.mean() + (output.decoded - features).square().mean()).backward()
    exported = codec.export(features)
    payload = exported.encode(features[0], 4)
    symbols = exported.sections(payload)
    assert codec.analysis.output.weight.grad is None
    assert len(set(map(tuple, exported.scale_indices(features[0], 4)))) == 1  # no token has scales of its own
    assert symbols["hyperprior"] > 0  # an untrained prior still expects other values than zero
