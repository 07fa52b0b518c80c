"""Estimates of a training run against published counts, formulas by hand, and a real pass, measured."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import functools
import gc
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from typer.testing import CliRunner

from entropy import CodecConfig
from tofc.cli.app import app
from tofc.training import cost as module
from tofc.training.adapters import AdapterConfig, attach
from tofc.training.codec_task import TaskModel
from tofc.training.cost import (
    Cost,
    codec_cost,
    count_live_bytes,
    count_operations,
    pass_cost,
    shallow_cost,
)
from tofc.training.data import DataConfig
from tofc.training.estimate import (
    PUBLISHED,
    MemoryEstimate,
    base_shape,
    estimate,
    estimate_table,
    layout_shares,
)
from tofc.training.forward import VisionLanguageModel
from tofc.training.packing import PackedBatch
from tofc.training.settings import TrainConfig
from tofc.training.trainable import make_codec

WIDTH, MLP, VOCABULARY, PATCHES = 192, 768, 4000, 144
BATCH, TOKENS, TEXT = 16, 64, 128


def small_shape(depth: tuple[int, int] = (3, 4)) -> LlavaOnevisionConfig:
    blocks = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_attention_heads": 4}
    vision = {
        "model_type": "siglip_vision_model",
        "image_size": 168,
        "patch_size": 14,
        "vision_use_head": False,
    }
    return LlavaOnevisionConfig(
        vision_config={**blocks, **vision, "num_hidden_layers": depth[0]},
        text_config={
            "model_type": "qwen2", **blocks, "num_key_value_heads": 2, "num_hidden_layers": depth[1],
            "vocab_size": VOCABULARY, "tie_word_embeddings": False,
        },
        tie_word_embeddings=False, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def small_config(**changes: Any) -> TrainConfig:
    codec = CodecConfig(width=WIDTH, experts=2, hyper=4, analysis_hidden=16, synthesis_hidden=16)
    config = TrainConfig(
        base="small",
        data=DataConfig("nothing:Nothing"),
        codec=codec,
        adapters=AdapterConfig(rank=8),
        tokens={"64": 1.0},
    )
    return dataclasses.replace(config, **changes)


# -- against what is known --


@pytest.mark.parametrize(
    "name, millions",
    [("0.5b", 397.7 + 1.8 + 24 * 14.9 + 136.2), ("7b", 397.7 + 17.0 + 28 * 233.1 + 2 * 545.2)],
)
def test_published_parameter_counts(name: str, millions: float) -> None:
    (base,) = [base for base in PUBLISHED if f"-{name}-" in base]
    config = small_config(adapters=None, codec=CodecConfig(width=1152))
    cost = pass_cost(config, base_shape(base), 1, 64, 8)
    assert cost.trained == 0
    assert cost.frozen / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.fixture(scope="module")
def found() -> MemoryEstimate:
    config = small_config(micro_batch=2, max_text_tokens=32, gradient_checkpointing=True)
    return estimate(config, small_shape(), pictures=1000, text_tokens=16)


def test_trained_parameters_are_adapters_projector_and_codec(found) -> None:
    tower = 4 * 2 * WIDTH + 2 * (WIDTH + MLP)
    text = 2 * 2 * WIDTH + 2 * (WIDTH + WIDTH // 2) + 3 * (WIDTH + MLP)
    projector = 2 * (WIDTH * WIDTH + WIDTH)
    prior = small_config().prior
    codec = sum(p.numel() for p in make_codec(small_config().codec, prior, 0).parameters())
    assert found.trained == 8 * (3 * tower + 4 * text) + projector + codec
    assert found.state == 16 * found.trained


def test_arithmetic_of_a_frozen_7b_model_by_hand() -> None:
    """The tower forward; projector and language model forward, and backward through frozen layers."""
    (base,) = [base for base in PUBLISHED if "-7b-" in base]
    config = small_config(adapters=None, codec=CodecConfig(width=1152))
    tokens, text = 64, 100
    cost = pass_cost(config, base_shape(base), 1, tokens, text)
    tower = 26 * (729 * 2 * (4 * 1152**2 + 2 * 1152 * 4304) + 4 * 729**2 * 1152) + 729 * 2 * 3 * 14**2 * 1152
    assert tower == pytest.approx(0.642e12, rel=0.01)
    length = 8 + tokens + 1 + text  # the turn's opening, pictures, a newline, text
    block = 2 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    language = 28 * (length * block + 4 * length**2 * 3584) + text * 2 * 3584 * 152_128
    projector = tokens * 2 * (1152 * 3584 + 3584**2)
    # Attention's backward pass computes five products where the forward pass has two.
    attention = 28 * 4 * length**2 * 3584 * 0.5
    assert cost.flops == pytest.approx(tower + 2 * (language + projector) + attention, rel=0.01)


# -- against a pass that is run --


def resident_growth(task: TaskModel) -> int:
    """Bytes by which this process grows at the peak of a pass, as the kernel counts them."""

    def kilobytes(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    real_pass(task, batch=1)  # libraries set themselves up
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what earlier runs have freed
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = kilobytes("VmRSS")
    real_pass(task)
    return 1024 * (kilobytes("VmHWM") - before)


def real_task(config: TrainConfig) -> TaskModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaOnevisionForConditionalGeneration(small_shape()).to(torch.bfloat16).requires_grad_(False)
    attach(model, config.adapters, 0)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    task = TaskModel(
        VisionLanguageModel(model, bf16=True), make_codec(config.codec, "logistic", 0), lambda f, k: f[:, :k]
    )
    for parameter in task.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return task.train()


def real_pass(task: TaskModel, batch: int = BATCH) -> None:
    generator = torch.Generator().manual_seed(0)
    packed = PackedBatch(
        prefix_ids=torch.arange(8),
        input_ids=torch.randint(VOCABULARY, (batch, TEXT), generator=generator),
        targets=torch.randint(VOCABULARY, (batch, TEXT), generator=generator),
        segments=torch.zeros(batch, TEXT, dtype=torch.long),
        offsets=torch.arange(TEXT).repeat(batch, 1),
        weights=torch.ones(batch, TEXT),
        has_picture=torch.ones(batch, dtype=torch.bool),
    )
    pixels = torch.randint(256, (batch, 3, 168, 168), dtype=torch.uint8, generator=generator)
    task.grounded.model.zero_grad(set_to_none=False)
    task(pixels, packed, torch.full((batch,), -1), TOKENS).answer_loss.backward()


@pytest.fixture(scope="module")
def expected() -> dict[bool, Cost]:
    """By checkpointing off and on."""
    return {
        on: pass_cost(small_config(gradient_checkpointing=on), small_shape(), BATCH, TOKENS, TEXT)
        for on in (False, True)
    }


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_pass_has_the_arithmetic_and_the_live_bytes(expected, checkpointing: bool) -> None:
    task = real_task(small_config(gradient_checkpointing=checkpointing))
    run = functools.partial(real_pass, task)
    assert count_operations(run).total == pytest.approx(expected[checkpointing].flops, rel=1e-6)
    assert count_live_bytes(run, task) == pytest.approx(expected[checkpointing].peak, rel=0.03)


def test_checkpointing_trades_memory_for_arithmetic(expected) -> None:
    assert expected[True].peak < 0.5 * expected[False].peak
    assert 1.2 * expected[False].flops < expected[True].flops < 1.6 * expected[False].flops


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks the Linux kernel")
def test_the_kernel_sees_the_same_peak(expected) -> None:
    """Within 15 %, in a process of its own whose tensors go back to the kernel once they are freed."""
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    settings["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    for on, resident in zip((False, True), map(int, done.stdout.split()), strict=True):
        assert resident == pytest.approx(expected[on].peak, rel=0.15)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_extrapolate(checkpointing: bool) -> None:
    config, shape = small_config(gradient_checkpointing=checkpointing), small_shape((3, 3))
    counted = shallow_cost(config, copy.deepcopy(shape), (3, 3), 4, TOKENS, 40)
    extrapolated = pass_cost(config, shape, 4, TOKENS, 40)
    assert extrapolated.flops == pytest.approx(counted.flops, rel=1e-9)
    assert (extrapolated.frozen, extrapolated.trained) == (counted.frozen, counted.trained)
    assert extrapolated.peak == pytest.approx(counted.peak, rel=0.03)


def test_the_codec_costs_alike_for_every_token(monkeypatch) -> None:
    config = small_config()
    one = codec_cost(config)
    assert one.flops > 6 * WIDTH**2, "the transform and its inverse, forward and backward"
    monkeypatch.setattr(module, "_CODEC_TOKENS", 512)
    many = codec_cost(config)
    assert many.flops == pytest.approx(one.flops, rel=0.1)
    assert many.peak < 1.1 * one.peak


# -- what is said --


def test_shares_of_layouts() -> None:
    config = small_config(tokens={"64": 3.0, "all": 1.0, "500": 0.0, "900": 0.0}, uncoded_share=0.2)
    assert layout_shares(config.tokens, config.uncoded_share, 144) == pytest.approx({64: 0.6, 144: 0.4})


def test_hours_and_memory_follow_from_the_parts(found) -> None:
    assert found.memory == 2 * found.frozen + 16 * found.trained + found.activations[True]
    assert found.activations[True] < found.activations[False]
    assert found.mean_flops == pytest.approx(0.9 * found.flops[64] + 0.1 * found.flops[PATCHES])
    assert found.hours["H100"] == pytest.approx(1000 * found.mean_flops / (0.4 * 989e12 * 3600))
    output = io.StringIO()
    Console(file=output, width=120).print(estimate_table(found))
    for words in (
        "1,000 examples",
        "with checkpointing",
        "(as configured)",
        "H100 hours at 40% of 989 TFLOP/s",
    ):
        assert words in output.getvalue()


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_estimates_without_training(base_folder, tmp_path: Path, arguments: list[str]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"base: {base_folder}\ncodec: {{width: 32}}\nadapters: {{rank: 2}}\ntokens: {{all: 1.0}}\n"
        "data: {source: nothing:Nothing}\ntotal_steps: 5\nbatch_size: 4\nmax_text_tokens: 16\n"
    )
    result = CliRunner().invoke(app, ["train", str(config), "--estimate", *arguments])
    assert result.exit_code == 0, result.output
    if arguments:
        values = json.loads(result.stdout)
        assert (values["pictures"], values["micro_batch"], list(values["flops"])) == (20, 4, ["36"])
        assert values["hours"]["H100"] > 0
    else:
        assert "20 examples" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_families_are_estimated_before_there_is_a_checkpoint(base_folder, tmp_path: Path) -> None:
    """Branches cost what they are: a second one adds its block's parameters and its passes."""
    config = tmp_path / "family.yaml"
    found = []
    for exits in ((1,), (1, 1)):
        branches = [{"exit": exit, "name": f"b{n}"} for n, exit in enumerate(exits)]
        config.write_text(
            f"base: nowhere\nshape_of: {base_folder}\nbranches: {json.dumps(branches)}\nmain: lora\n"
            "adapters: {rank: 2, tower: false, projector: false}\ntokens: {'12': 1.0}\n"
            "data: {source: nothing:Nothing}\ntotal_steps: 5\nbatch_size: 4\nmax_text_tokens: 16\n"
        )
        result = CliRunner().invoke(app, ["train-familial", str(config), "--estimate", "--json"])
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout))
    one, two = found
    assert one["pictures"] == two["pictures"] == 20
    assert one["frozen"] == two["frozen"] > 0
    block = 2 * (32 * 32 + 32 * 16) + 3 * 32 * 64  # its matrices: query, output, key, value; three of the MLP
    assert block < two["trained"] - one["trained"] < 1.1 * block
    assert two["mean_flops"] > one["mean_flops"]


if __name__ == "__main__":
    for on in (False, True):
        print(resident_growth(real_task(small_config(gradient_checkpointing=on))))
