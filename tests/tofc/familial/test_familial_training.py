"""`tofc train-familial`: gradients of passes add up, and choices are as configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import tofc
import tofc.config
from eval.scenes.corpus import SceneCorpus
from eval.scenes.world import make_scene
from tofc import familial
from tofc.config import from_mapping
from tofc.errors import ConfigError, UserError
from tofc.model import save_checkpoint
from tofc.training.base_model import BaseModelConfig, build_model, build_processor, build_tokenizer
from tofc.training.family import FamilyRun, run
from tofc.training.family_settings import FamilyConfig

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "data": {
        "source": "eval.scenes.corpus:SceneCorpus",
        "options": {"size": 112, "questions": 3, "describe_share": 0.0},
        "num_workers": 0,
    },
    "branches": [{"exit": 1, "ratios": [0.5, 1.0]}, {"exit": 2}],
    "main": "full",
    "kl": 0.3,
    "tokens": {"12": 1.0},
    "calibration_pictures": 4,
    "total_steps": 4,
    "batch_size": 4,
    "max_text_tokens": 64,
    "warmup_steps": 2,
    "validation_pictures": 4,
    "log_every": 4,
    "save_every": 4,
    "validate_every": 4,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_width_codec: Any) -> Path:
    """A checkpoint with codec around a random model with three blocks of language model."""
    folder = tmp_path_factory.mktemp("family")
    shape = BaseModelConfig(
        image_size=112, vision_width=32, vision_layers=1, vision_heads=2,
        text_width=32, text_layers=3, text_heads=2, text_mlp=64, vocab_size=400,
    )  # fmt: skip
    tokenizer = build_tokenizer(SceneCorpus(size=112).texts(300, 0), shape.vocab_size)
    model, processor = build_model(shape, tokenizer, seed=0), build_processor(tokenizer, shape)
    config = tofc.config.CheckpointConfig(merging=tofc.config.MergingConfig(tokens=12))
    return save_checkpoint(folder / "base", (model, processor), tiny_width_codec, config)


def make_run(base: Path, folder: Path, **changes: Any) -> FamilyRun:
    config = from_mapping(FamilyConfig, {**SETTINGS, "base": str(base), **changes}, "test")
    return FamilyRun(config, folder, Console(quiet=True))


def gradients(made: FamilyRun) -> dict[str, torch.Tensor]:
    examples = [made.corpus.picture("train", index, 3) for index in range(4)]
    made.backward(examples)
    return {n: p.grad for n, p in made.task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("main", ["full", "lora", "frozen"])
def test_passes_add_up_to_the_joint_gradient(base: Path, tmp_path: Path, main: str) -> None:
    together = gradients(make_run(base, tmp_path / "a", main=main))
    apart = gradients(make_run(base, tmp_path / "b", main=main, members_per_pass=1))
    assert together.keys() == apart.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(apart[name], gradient, rtol=1e-4, atol=1e-6)
    touched = {name.split(".")[0] for name in together}
    assert touched == ({"branches"} if main == "frozen" else {"branches", "grounded"})
    assert not any("vision_tower" in name or "projector" in name for name in together)
    assert any("lora_A" in name for name in together) == (main == "lora")


def test_every_kind_of_choice(base: Path, tmp_path: Path) -> None:
    def chosen(steps: int, **changes: Any) -> list[list[str]]:
        trainer = make_run(base, tmp_path / "run", **changes)
        found = []
        for step in range(steps):
            trainer.step = step
            found.append([member.name for member in trainer.choose()])
        return found

    names = {"e1-50", "e1", "e2", "full"}
    assert set(chosen(1)[0]) == names
    assert set(chosen(1, main="frozen")[0]) == names - {"full"}
    turns = chosen(4, choose="sequential")
    assert {name for turn in turns for name in turn} == names
    assert all(len(turn) == 1 for turn in turns)
    drawn = chosen(40, choose="random", members_per_step=2)
    assert {name for turn in drawn for name in turn} == names
    assert all(len(set(turn)) == 2 for turn in drawn)
    assert drawn == chosen(40, choose="random", members_per_step=2)
    trainer = make_run(base, tmp_path / "run", choose="loss", members_per_step=2)
    trainer._remember({"loss/e1-50": 1.0, "loss/e1": 3.0, "loss/e2": 2.0, "loss/full": 0.5})
    assert [member.name for member in trainer.choose()] == ["e1", "e2"]


def test_branches_start_as_the_next_block_and_the_full_model_as_its_teacher(
    base: Path, tmp_path: Path
) -> None:
    made = make_run(base, tmp_path / "run")
    examples = [made.corpus.picture("train", index, 3) for index in range(4)]
    task = made.task.eval()
    visual, packed = made.see(examples, 0)
    found = task(visual, packed, list(made.roster), task.teach(visual, packed))
    assert float(found["full"].divergence.detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(found["e1"].divergence.detach()) > 1e-4
    block, branch = task.grounded.text.layers[2], made.branches[1].blocks[0]
    assert torch.equal(branch.input_layernorm.weight, block.input_layernorm.weight)


def test_the_checkpoint_answers_with_every_member(base: Path, tmp_path: Path) -> None:
    config = from_mapping(FamilyConfig, {**SETTINGS, "base": str(base)}, "test")
    check_checkpoint(run(config, tmp_path / "whole", Console(quiet=True)), base)


def check_checkpoint(folder: Path, base: Path) -> None:
    """The checkpoint answers with every member, and one that is loaded alone says the same."""
    assert familial.family(folder)[-1].name == "full"
    device, edge = tofc.Device.from_pretrained(folder), tofc.Edge.from_pretrained(folder)
    told = json.loads((folder / "base" / "config.json").read_text())
    assert told["dtype"] == told["vision_config"]["dtype"] == told["text_config"]["dtype"]
    before = tofc.Edge.from_pretrained(base)
    packet = device.encode(make_scene("validation", 0)[1])
    for name in edge.family.names:
        answer = edge.answer(packet, "How many cars are there?", exit=name, max_new_tokens=4)
        alone = tofc.Edge.from_pretrained(folder, exit=name)
        assert alone.answer(packet, "How many cars are there?", max_new_tokens=4) == answer
    changed = dict(edge.model.model.language_model.named_parameters())
    same = [torch.equal(p, changed[n]) for n, p in before.model.model.language_model.named_parameters()]
    assert not all(same)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"branches": []}, "branches is empty"),
        ({"branches": [{"exit": 1, "ratios": [0.5]}]}, "with 1.0 for the whole branch"),
        ({"branches": [{"exit": 0}]}, "give at least 1"),
        ({"main": "thawed"}, "frozen, lora, full"),
        ({"choose": "best"}, "all, random, sequential, loss"),
        ({"kl": 1.5}, "in \\[0, 1\\]"),
        ({"qualities": [0, 9]}, "choose from 1 to 8"),
        ({"exits": 3}, "unknown key exits"),
    ],
)
def test_faults_of_a_configuration_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_mapping(FamilyConfig, {**SETTINGS, **changes}, "test")


def test_an_exit_beyond_the_model_is_an_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exits go from 1 to 2"):
        make_run(base, tmp_path / "run", branches=[{"exit": 3}])


def test_the_bundled_recipe_makes_the_bundled_branches() -> None:
    config = tofc.config.load_yaml("scenes-tiny-family", FamilyConfig)
    index: Any = familial.family("scenes-tiny")
    bundled = {spec.name: (spec.exit_layer, spec.ratios) for spec in index.branches}
    made = {branch.called: (branch.exit, tuple(sorted(branch.ratios))) for branch in config.branches}
    assert made == bundled
