"""`tofc train` as users run it: it learns, survives a kill, and two processes do what one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tofc
from eval.scenes.corpus import SceneCorpus
from eval.scenes.world import make_scene
from tofc.config import load_yaml
from tofc.errors import UserError
from tofc.training.base_model import BaseModelConfig, build_model, build_processor, build_tokenizer
from tofc.training.settings import TrainConfig
from tofc.training.train import Run

CONFIG = """
base: {base}
seed: 3
data: {{source: "eval.scenes.corpus:SceneCorpus", options: {{size: 112, questions: 3}}, num_workers: 0}}
codec: {{width: 32, experts: 2, hyper: 4, analysis_hidden: 16, synthesis_hidden: 16, router_hidden: 8}}
adapters: {{rank: 4, alpha: 8, learning_rate: 5.0e-3}}
checkpoint: {{merging: {{tokens: 12}}, default_quality: 3}}
tokens: {{"12": 0.7, all: 0.3}}
init_pictures: 16
feature_steps: 20
total_steps: 60
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


def environment() -> dict[str, str]:
    """Of a process that trains: like the one that runs the tests, on one core."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(*command: object) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    words = [sys.executable, *map(str, command)]
    return subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output + errors


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
def runs(config: Path) -> tuple[Path, Path]:
    """Checkpoints of an unbroken run and of one that was killed in the middle and started again."""
    whole, broken = config.parent / "whole", config.parent / "broken"
    finish(start("-m", "tofc", "train", config, "--out", whole))
    process = start("-m", "tofc", "train", config, "--out", broken)
    state = config.parent / "broken-run" / "state.safetensors"
    deadline = time.monotonic() + 300
    while not state.exists():
        assert time.monotonic() < deadline, "the run wrote no state"
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "going on from step" in finish(start("-m", "tofc", "train", config, "--out", broken))
    return whole, broken


def entries(checkpoint: Path) -> list[dict[str, float]]:
    log = checkpoint.parent / f"{checkpoint.name}-run" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "pictures_per_second"} for entry in lines]


def test_a_killed_run_has_the_curve_of_an_unbroken_one(runs: tuple[Path, Path]) -> None:
    whole, broken = map(entries, runs)
    assert [entry["step"] for entry in whole] == [10, 20, 30, 30, 40, 50, 60, 60]
    assert whole == broken
    prints = [tofc.Device.from_pretrained(run).codec.fingerprint for run in runs]
    assert prints[0] == prints[1]


def test_answers_codec_and_experts_are_in_the_log(runs: tuple[Path, Path]) -> None:
    log = entries(runs[0])
    asked = [entry["loss/answers"] for entry in log if entry.get("loss/answers")]
    assert asked[-1] < asked[0]
    shares = [log[-2][f"usage/quality_1/model_{expert}"] for expert in range(2)]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    assert {"validation/uncoded/exact", "validation/quality_8/exact", "validation/quality_8/bytes"} <= {
        *log[-1]
    }
    assert (runs[0].parent / "whole-run" / "tensorboard").is_dir()


def test_the_checkpoint_answers_over_packets(runs: tuple[Path, Path], config: Path) -> None:
    device, edge = tofc.Device.from_pretrained(runs[0]), tofc.Edge.from_pretrained(runs[0])
    picture = make_scene("validation", 0)[1]
    sizes = [len(bytes(device.encode(picture, quality=quality))) for quality in (1, 3, 8)]
    assert sizes == sorted(set(sizes))
    assert (
        edge.answer(bytes(device.encode(picture)), "How many cars are there?", max_new_tokens=3).text
        is not None
    )
    report = json.loads((runs[0].parent / "whole-run" / "codec-report.json").read_text())
    assert [level["quality"] for level in report] == list(range(1, 9))
    for level in report:
        assert level["integer_bytes"] == pytest.approx(level["estimated_bytes"], rel=0.01)
    tuned = load_file(runs[0] / "base" / "model.safetensors")
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
    run = Run(slow, tmp_path, Console(quiet=True))
    run.trainer.train_step([run.corpus.picture("train", number, 0) for number in range(4)])
    moved = {"vision_tower": 0.0, "language_model": 0.0}
    for name, parameter in run.tuned.named_parameters():
        for side in moved:
            if "lora_B" in name and side in name:  # these begin at zero
                moved[side] = max(moved[side], float(parameter.detach().abs().max()))
    assert moved["language_model"] > 0
    assert moved["vision_tower"] == pytest.approx(0.1 * moved["language_model"], rel=1e-3)


GRADIENTS = """
import sys
from pathlib import Path
import torch
from rich.console import Console
from safetensors.torch import save_file
from tofc.config import load_yaml
from tofc.training.settings import TrainConfig
from tofc.training.train import Run
run = Run(load_yaml(sys.argv[1], TrainConfig), Path(sys.argv[2]), Console(quiet=True))
trainer = run.trainer
share = trainer.config.batch_size // trainer.accelerator.num_processes
first = trainer.accelerator.process_index * share
found = {}
for step in (3, 25):
    trainer.step = step
    examples = [trainer.corpus.picture("train", 100 + first + i, 0) for i in range(share)]
    trainer.backward(examples)
    for name, parameter in trainer.task.named_parameters():
        if parameter.grad is not None:
            found[f"{step}/{name}"] = parameter.grad.clone()
            parameter.grad = None
if trainer.accelerator.is_main_process:
    save_file(found, sys.argv[3])
"""


def gradients(
    config: Path, tmp_path: Path, name: str, launcher: tuple[object, ...] = ()
) -> dict[str, torch.Tensor]:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    out = tmp_path / f"{name}.safetensors"
    finish(start(*launcher, script, config, tmp_path / name, out))
    return load_file(out)


def test_two_processes_have_the_gradients_of_one(config: Path, tmp_path: Path) -> None:
    """Rendezvous, reductions and averaging are those of torchrun and accelerate, on two real processes."""
    one = gradients(config, tmp_path, "one")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    two = gradients(config, tmp_path, "two", launcher)
    assert any(name.startswith("25/grounded") for name in one)
    assert any(name.startswith("3/codec") for name in one)
    assert not any(name.startswith("3/grounded") and bool(value.any()) for name, value in one.items())
    for name, value in one.items():
        largest = float(value.abs().max())
        assert torch.allclose(value, two.get(name, torch.zeros_like(value)), atol=2e-5 * largest + 1e-9), name


def test_passes_and_checkpointing_change_memory_not_gradients(config: Path, tmp_path: Path) -> None:
    text = config.read_text() + "balance: 0.0\n"  # balance looks at one pass at a time
    plain, thrifty = tmp_path / "plain.yaml", tmp_path / "thrifty.yaml"
    plain.write_text(text)
    thrifty.write_text(text + "micro_batch: 2\ngradient_checkpointing: true\n")
    one, two = gradients(plain, tmp_path, "plain"), gradients(thrifty, tmp_path, "thrifty")
    assert any(bool(value.any()) for name, value in one.items() if name.startswith("25/grounded"))
    for name, value in one.items():
        largest = float(value.abs().max())
        assert torch.allclose(value, two.get(name, torch.zeros_like(value)), atol=2e-5 * largest + 1e-9), name


def test_a_base_that_is_not_there_is_named(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "lost.yaml"
    file.write_text(CONFIG.format(base=tmp_path / "nothing"))
    process = start("-m", "tofc", "train", file, "--out", tmp_path / "out")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "tofc pretrain" in errors


def test_a_codec_goes_on_learning(runs: tuple[Path, Path], config: Path, tmp_path: Path) -> None:
    again = replace(load_yaml(config, TrainConfig), codec_from=str(runs[0]))
    run = Run(again, tmp_path / "work", Console(quiet=True))
    begin = load_file(runs[0] / "codec.safetensors")
    state = run.task.codec.state_dict()
    assert all(torch.equal(value, begin[name]) for name, value in state.items())
    run.trainer.train_step([run.corpus.picture("train", number, 0) for number in range(4)])
    moved = [name for name, value in run.task.codec.named_parameters() if not torch.equal(value, begin[name])]
    assert moved
    with pytest.raises(UserError, match="another shape"):
        Run(replace(again, codec=replace(again.codec, experts=3)), tmp_path / "other", Console(quiet=True))
    with pytest.raises(UserError, match="has no codec that can learn on"):
        Run(replace(again, codec_from=again.base), tmp_path / "plain", Console(quiet=True))


def test_a_codec_of_another_width_is_named(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text(config.read_text().replace("width: 32", "width: 48"))
    process = start("-m", "tofc", "train", file, "--out", tmp_path / "out")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "codec.width is 48" in errors
