"""`tofc train-familial`: gradients of passes add up, and choices are as configured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import tofc
import tofc.config
from eval.scenes.corpus import SceneCorpus
from eval.scenes.world import make_scene
from tofc import familial
from tofc.cli.app import app
from tofc.config import from_mapping
from tofc.errors import ConfigError, UserError
from tofc.familial.branches import count_parameters
from tofc.model import save_checkpoint
from tofc.training.base_model import BaseModelConfig, build_model, build_processor, build_tokenizer
from tofc.training.codec import run as train_codec
from tofc.training.family import FamilyRun
from tofc.training.family_settings import FamilyConfig
from tofc.training.hpcd import HpcdRun, run
from tofc.training.settings import TrainConfig

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


def test_a_specialist_learns_its_own_questions_alone(base: Path, tmp_path: Path) -> None:
    """Its gradient is that of a picture with these questions alone; where there are none, it has none."""
    specialist = {"exit": 1, "name": "counter", "learns": ["count"]}
    data = {**SETTINGS["data"], "options": {"size": 112, "questions": 8, "describe_share": 0.0}}
    options: Any = {"data": data, "branches": [specialist, {"exit": 2}], "main": "frozen", "kl": 0.0}
    made = make_run(base, tmp_path / "run", **options)
    examples = [made.corpus.picture("train", index, 3) for index in range(4)]
    assert {turn.category.split("/")[-1] for one in examples for turn in one.turns} > {"count"}
    counts = [replace(one, turns=tuple(t for t in one.turns if "count" in t.category)) for one in examples]
    others = [
        replace(one, turns=tuple(t for t in one.turns if "count" not in t.category)) for one in examples
    ]
    assert any(one.turns for one in counts)

    def counters(pictures: list[Any]) -> list[torch.Tensor]:
        made.model.zero_grad()
        made.backward(pictures)
        return [w.grad.clone() for w in made.branches[0].parameters() if w.grad is not None]

    for whole, own in zip(counters(examples), counters(counts), strict=True):
        torch.testing.assert_close(whole, own)
    assert any(bool(gradient.any()) for gradient in counters(counts))
    assert not any(bool(gradient.any()) for gradient in counters(others))


def test_branches_start_as_the_next_block_and_the_full_model_as_its_teacher(
    base: Path, tmp_path: Path
) -> None:
    made = make_run(base, tmp_path / "run")
    examples = [made.corpus.picture("train", index, 3) for index in range(4)]
    task = made.task.eval()
    visual, packed = made.see(examples, 0, 0), made.pack(examples)
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


HPCD = {"components": 3, "ratio": 1.2, "steps": 12, "tuning_steps": 2, "tuning_lr": 1e-4}


def test_components_are_trained_one_after_another(base: Path, tmp_path: Path) -> None:
    """Earlier components stand still, later ones are nothing yet, and members get better with each."""
    changes = {
        "hpcd": HPCD,
        "branches": [],
        "main": "frozen",
        "kl": 0.4,
        "adamw_lr": 3e-4,
        "total_steps": None,
    }
    config = from_mapping(FamilyConfig, {**SETTINGS, **changes, "base": str(base)}, "test")
    made = HpcdRun(config, tmp_path / "run", Console(quiet=True))
    assert made.total_steps == 3 * 14
    members = [name for name in made.roster.names if name != "full"]
    assert members == ["h-33", "h-67", "h"]
    examples = [made.corpus.picture("train", index, 3) for index in range(4)]
    layers = [layer for _, _, layer in made.components._layers]
    size = [layer.rank // 3 for layer in layers]
    stages = []
    for _ in range(made.total_steps):
        number, at, _, tuned = made.stage()
        if at == 0:
            before = [layer.down.clone() for layer in layers]
        made.train_step(examples)
        made.step += 1
        stages.append((number, tuned))
        moved = [(layer.down != old).any(1) for layer, old in zip(layers, before, strict=True)]
        for layer, s, changed in zip(layers, size, moved, strict=True):
            others = torch.ones(layer.rank, dtype=torch.bool)
            others[(number - 1) * s : number * s] = False
            assert not changed[others].any()
            assert tuned or not layer.down[number * s :].any()
    assert stages[::12][:3] == [(1, False), (2, False), (3, False)]
    assert stages[-6::2] == [(1, True), (2, True), (3, True)]
    folder = tmp_path / "out"
    made.write(folder)
    assert [m.name for m in familial.family(folder)] == ["h-33", "h-67", "full", "h"]
    edge = tofc.Edge.from_pretrained(folder, "h-67")
    assert edge.answer(tofc.Device.from_pretrained(folder).encode(picture()), "How many?").exit == "h-67"


def picture() -> Any:
    return PIL.Image.fromarray(make_scene("test", 0)[1])


def test_a_resumed_run_of_components_ends_as_the_whole_one(base: Path, tmp_path: Path) -> None:
    changes = {"hpcd": {**HPCD, "steps": 2, "tuning_steps": 1}, "branches": [], "main": "frozen", "kl": 0.4}
    changes |= {"total_steps": None, "save_every": 4, "log_every": 2, "base": str(base)}
    config = from_mapping(FamilyConfig, {**SETTINGS, **changes}, "test")
    whole = HpcdRun(config, tmp_path / "a", Console(quiet=True))
    whole.run()
    first = HpcdRun(config, tmp_path / "b", Console(quiet=True))
    first.total_steps = 4
    first.run()
    again = HpcdRun(config, tmp_path / "b", Console(quiet=True))
    assert again.step == 4
    again.run()
    for one, other in zip(whole.components.parameters(), again.components.parameters(), strict=True):
        assert torch.equal(one, other)


def test_adaptive_ranks_keep_the_budget_and_lose_less(base: Path, tmp_path: Path) -> None:
    equal, adaptive = (
        make_run(base, tmp_path / kind, ranks=kind).branches[0] for kind in ("equal", "adaptive")
    )
    sizes = [count_parameters(branch) for branch in (equal, adaptive)]
    assert 0.95 * sizes[0] < sizes[1] <= sizes[0]
    ranks = [{n: m.rank for n, m in b.named_modules() if hasattr(m, "rank")} for b in (equal, adaptive)]
    assert ranks[0] != ranks[1]


def test_adapters_are_merged_into_the_base(base: Path, tmp_path: Path) -> None:
    """A checkpoint with adapters answers alike when they are merged, and then families can start from it."""
    config = from_mapping(TrainConfig, {**ADAPTED, "base": str(base / "base")}, "test")
    with_adapters = train_codec(config, tmp_path / "adapted", Console(quiet=True))
    with pytest.raises(UserError, match="tofc merge"):
        make_run(with_adapters, tmp_path / "run")
    done = CliRunner().invoke(app, ["merge", str(with_adapters), str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    merged = tmp_path / "merged"
    device, other = tofc.Device.from_pretrained(with_adapters), tofc.Device.from_pretrained(merged)
    packet = device.encode(picture())
    assert bytes(other.encode(picture())) == bytes(packet)
    said = [tofc.Edge.from_pretrained(f).answer(packet, "How many?").text for f in (with_adapters, merged)]
    assert said[0] == said[1]
    assert make_run(merged, tmp_path / "run").total_steps == SETTINGS["total_steps"]
    assert CliRunner().invoke(app, ["merge", str(merged), str(tmp_path / "again")]).exit_code == 2


ADAPTED = {
    **{key: SETTINGS[key] for key in ("seed", "data", "precision", "validation_pictures")},
    "merge_adapters": False, "tokens": {"12": 1.0}, "init_pictures": 4, "feature_steps": 1, "total_steps": 2,
    "codec": {"width": 32, "experts": 2, "hyper": 4, "analysis_hidden": 16, "synthesis_hidden": 16,
              "router_hidden": 8},
    "adapters": {"rank": 4, "alpha": 8, "learning_rate": 5e-2}, "batch_size": 2,
    "checkpoint": {"merging": {"tokens": 12}, "default_quality": 3}, "log_every": 2, "save_every": 2,
}  # fmt: skip
