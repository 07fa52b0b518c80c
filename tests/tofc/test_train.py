"""`tofc train` as users run it: it learns, and two processes do what one does."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import tofc
from eval.scenes.corpus import SceneCorpus
from eval.scenes.world import make_scene
from tofc.cli.app import app
from tofc.config import load_yaml
from tofc.errors import UserError
from tofc.training.base_model import BaseModelConfig, build_model, build_processor, build_tokenizer
from tofc.training.codec import CodecRun
from tofc.training.settings import TrainConfig
from tofc.training.state import read_log

CONFIG = """
base: {base}
seed: 3
data: {{source: "eval.scenes.corpus:SceneCorpus", options: {{size: 112, questions: 3}}, num_workers: 0}}
codec: {{width: 32, experts: 2, hyper: 4, analysis_hidden: 16, synthesis_hidden: 16, router_hidden: 8}}
adapters: {{rank: 4, alpha: 8, learning_rate: 5.0e-3}}
checkpoint: {{merging: {{tokens: 12}}, default_quality: 3}}
tokens: {{"12": 0.7, all: 0.3}}
init_pictures: 16
feature_steps: 10
total_steps: 30
batch_size: 4
max_text_tokens: 96
warmup_steps: 5
validation_pictures: 6
validate_every: 30
log_every: 10
save_every: 10
precision: fp32
"""
ROOT = Path(__file__).resolve().parents[2]


def tofc_train(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration beside the random base model that it names."""
    folder = tmp_path_factory.mktemp("train")
    shape = BaseModelConfig(
        image_size=112, vision_width=32, vision_layers=2, vision_heads=2,
        text_width=32, text_layers=2, text_heads=2, text_mlp=64, vocab_size=512,
    )  # fmt: skip
    tokenizer = build_tokenizer(SceneCorpus(size=112).texts(400, 0), shape.vocab_size)
    build_model(shape, tokenizer, seed=0).save_pretrained(folder / "base")
    build_processor(tokenizer, shape).save_pretrained(folder / "base")
    file = folder / "trial.yaml"
    file.write_text(CONFIG.format(base=folder / "base"))
    return file


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """The checkpoint of a run, as users start it."""
    done = tofc_train(config, "--out", config.parent / "whole")
    assert done.exit_code == 0, done.output
    return config.parent / "whole"


def entries(checkpoint: Path) -> list[dict[str, float]]:
    return read_log(checkpoint.parent / f"{checkpoint.name}-run" / "log.jsonl")


def test_answers_codec_and_experts_are_in_the_log(trained: Path) -> None:
    log = entries(trained)
    asked = [entry["loss/answers"] for entry in log if entry.get("loss/answers")]
    assert len(asked) > 1
    assert all(0 < loss < math.inf for loss in asked)
    shares = [log[-2][f"usage/quality_1/model_{expert}"] for expert in range(2)]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    assert {"validation/uncoded/exact", "validation/quality_8/exact", "validation/quality_8/bytes"} <= {
        *log[-1]
    }
    assert (trained.parent / "whole-run" / "tensorboard").is_dir()


def test_the_checkpoint_answers_over_packets(trained: Path, config: Path) -> None:
    device, edge = tofc.Device.from_pretrained(trained), tofc.Edge.from_pretrained(trained)
    picture = make_scene("validation", 0)[1]
    sizes = [len(bytes(device.encode(picture, quality=quality))) for quality in (1, 3, 8)]
    assert sizes == sorted(set(sizes))
    assert (
        edge.answer(bytes(device.encode(picture)), "How many cars are there?", max_new_tokens=3).text
        is not None
    )
    report = json.loads((trained.parent / "whole-run" / "codec-report.json").read_text())
    assert [level["quality"] for level in report] == list(range(1, 9))
    for level in report:
        assert level["integer_bytes"] == pytest.approx(level["estimated_bytes"], rel=0.01)
    tuned = load_file(trained / "base" / "model.safetensors")
    begin = load_file(config.parent / "base" / "model.safetensors")
    assert tuned.keys() == begin.keys()
    changed = {name for name in tuned if not torch.equal(tuned[name], begin[name])}
    assert any("vision" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)


def test_the_tower_learns_at_a_rate_of_its_own(config: Path, tmp_path: Path) -> None:
    """AdamW's first step moves every parameter by the rate itself."""
    plain = load_yaml(config, TrainConfig)
    assert plain.adapters is not None
    slow = replace(plain, feature_steps=0, adapters=replace(plain.adapters, tower_ratio=0.1))
    run = CodecRun(slow, tmp_path, Console(quiet=True))
    run.train_step([run.corpus.picture("train", number, 0) for number in range(4)])
    moved = {"vision_tower": 0.0, "language_model": 0.0}
    for name, parameter in run.tuned.named_parameters():
        for side in moved:
            if "lora_B" in name and side in name:  # these begin at zero
                moved[side] = max(moved[side], float(parameter.detach().abs().max()))
    assert moved["language_model"] > 0
    assert moved["vision_tower"] == pytest.approx(0.1 * moved["language_model"], rel=1e-3)


def gradients(config: Path, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Of a step of the codec alone and one with questions, from this process' share of each batch."""
    run = CodecRun(replace(load_yaml(config, TrainConfig), **changes), folder, Console(quiet=True))
    share = run.config.batch_size // run.accelerator.num_processes
    first = run.accelerator.process_index * share
    found = {}
    for run.step in (3, 15):
        run.backward([run.corpus.picture("train", 100 + first + i, 0) for i in range(share)])
        for name, parameter in run.task.named_parameters():
            if parameter.grad is not None:
                found[f"{run.step}/{name}"] = parameter.grad.clone()
                parameter.grad = None
    return found


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        largest = float(value.abs().max())
        assert torch.allclose(value, two.get(name, torch.zeros_like(value)), atol=2e-5 * largest + 1e-9), name


SHARED = """
import sys
from pathlib import Path
from accelerate import PartialState
from safetensors.torch import save_file
from test_train import gradients
config, folder, out = map(Path, sys.argv[1:])
found = gradients(config, folder)
if PartialState().is_main_process:
    save_file(found, out)
"""


def test_two_processes_have_the_gradients_of_one(config: Path, tmp_path: Path) -> None:
    """Rendezvous, reductions and averaging are those of torchrun and accelerate, on two real processes."""
    one = gradients(config, tmp_path / "one")
    script, out = tmp_path / "shared.py", tmp_path / "two.safetensors"
    script.write_text(SHARED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/tofc'}"}
    command = [*launcher, *map(str, (script, config, tmp_path / "two", out))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any(name.startswith("15/grounded") for name in one)
    assert any(name.startswith("3/codec") for name in one)
    assert not any(name.startswith("3/grounded") and bool(value.any()) for name, value in one.items())
    assert_equal(one, load_file(out))


def test_passes_and_checkpointing_change_memory_not_gradients(config: Path, tmp_path: Path) -> None:
    one = gradients(config, tmp_path / "plain", balance=0.0)  # balance looks at one pass at a time
    two = gradients(config, tmp_path / "thrifty", balance=0.0, micro_batch=2, gradient_checkpointing=True)
    assert any(bool(value.any()) for name, value in one.items() if name.startswith("15/grounded"))
    assert_equal(one, two)


def test_a_base_that_is_not_there_is_named(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "lost.yaml"
    file.write_text(CONFIG.format(base=tmp_path / "nothing"))
    done = tofc_train(file, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "tofc pretrain" in done.output


def test_a_codec_goes_on_learning(trained: Path, config: Path, tmp_path: Path) -> None:
    again = replace(load_yaml(config, TrainConfig), codec_from=str(trained))
    run = CodecRun(again, tmp_path / "work", Console(quiet=True))
    begin = load_file(trained / "codec.safetensors")
    state = run.task.codec.state_dict()
    assert all(torch.equal(value, begin[name]) for name, value in state.items())
    run.train_step([run.corpus.picture("train", number, 0) for number in range(4)])
    moved = [name for name, value in run.task.codec.named_parameters() if not torch.equal(value, begin[name])]
    assert moved
    with pytest.raises(UserError, match="another shape"):
        CodecRun(
            replace(again, codec=replace(again.codec, experts=3)), tmp_path / "other", Console(quiet=True)
        )
    with pytest.raises(UserError, match="has no codec that can learn on"):
        CodecRun(replace(again, codec_from=again.base), tmp_path / "plain", Console(quiet=True))


def test_a_codec_of_another_width_is_named(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text(config.read_text().replace("width: 32", "width: 48"))
    done = tofc_train(file, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "codec.width is 48" in done.output
