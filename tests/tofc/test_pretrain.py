"""A pretraining run: learns, survives a kill, and writes a checkpoint that transformers loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

CONFIG = """
name: trial
seed: 5
model: {image_size: 112, patch_size: 16, vision_width: 32, vision_layers: 2, vision_heads: 2,
        text_width: 32, text_layers: 2, text_heads: 2, text_mlp: 64, vocab_size: 512}
data: {source: "eval.scenes.corpus:SceneCorpus", options: {size: 112, patch: 16, questions: 3},
       num_workers: 0, tokenizer_texts: 400}
dense_batch: 4
answer_batch: 4
dense_steps: 40
total_steps: 60
layouts: {"12": 0.5, "49": 0.25, stock: 0.25}
validation_pictures: 4
validate_every: 20
save_every: 10
precision: fp32
"""
ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tofc", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output + errors


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of an unbroken run and of one that was killed in the middle and started again."""
    folder = tmp_path_factory.mktemp("pretrain")
    config = folder / "trial.yaml"
    config.write_text(CONFIG)
    finish(start("pretrain", config, "--out", folder / "whole"))
    broken = start("pretrain", config, "--out", folder / "broken")
    state = folder / "broken" / "state.safetensors"
    deadline = time.monotonic() + 200
    while not state.exists():
        assert time.monotonic() < deadline, "the run wrote no state"
        assert broken.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    assert "going on from step" in finish(start("pretrain", config, "--out", folder / "broken"))
    return folder / "whole", folder / "broken"


def entries(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "pictures_per_second"} for entry in lines]


def test_a_killed_run_has_the_curve_of_an_unbroken_one(runs):
    whole, broken = map(entries, runs)
    assert [entry["step"] for entry in whole] == [20, 20, 40, 40, 60, 60]
    assert whole == broken


def test_the_tower_learns(runs):
    losses = [entry["loss/dense"] for entry in entries(runs[0]) if "loss/dense" in entry]
    assert losses[-1] < 0.85 * losses[0]


def test_transformers_loads_the_checkpoint(runs):
    base = runs[0] / "base"
    processor = AutoProcessor.from_pretrained(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    content = [{"type": "image"}, {"type": "text", "text": "How many cars are there?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=Image.new("RGB", (200, 100), "grey"), text=text, return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]
    ids = processor.tokenizer("<|im_start|>user 42").input_ids
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["<|im_start|>", "user", "Ġ", "4", "2"]


def test_curves_are_drawn(runs):
    picture = Image.open(runs[0] / "curves.png").convert("L")
    dark = sum(picture.histogram()[:200])
    assert dark > 2000


def test_a_run_goes_on_from_another_s_checkpoint_with_its_tower_standing_still(runs, tmp_path):
    begin = runs[0] / "base"
    config = tmp_path / "more.yaml"
    more = CONFIG.replace("dense_steps: 40", "dense_steps: 0").replace("total_steps: 60", "total_steps: 4")
    config.write_text(f"{more}start_from: {begin}\noptimizer: {{tower_ratio: 0.0}}\n")
    finish(start("pretrain", config, "--out", tmp_path / "more"))
    before, after = (
        load_file(begin / "model.safetensors"),
        load_file(tmp_path / "more/base/model.safetensors"),
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)
    vocabularies = [
        AutoProcessor.from_pretrained(folder).tokenizer.get_vocab()
        for folder in (begin, tmp_path / "more/base")
    ]
    assert vocabularies[0] == vocabularies[1]

    config.write_text(config.read_text().replace("vision_width: 32", "vision_width: 64"))
    process = start("pretrain", config, "--out", tmp_path / "wide")
    assert "width 32" in process.communicate(timeout=300)[1]
    assert process.returncode == 2
