"""A pretraining run: it learns, and writes a checkpoint that transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner, Result

from tofc.cli.app import app
from tofc.training.forward import VisionLanguageModel
from tofc.training.state import read_log

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


def tofc_pretrain(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "trial.yaml").write_text(CONFIG)
    done = tofc_pretrain(folder / "trial.yaml", "--out", folder / "whole")
    assert done.exit_code == 0, done.output
    return folder / "whole"


def test_the_tower_learns(trained):
    losses = [entry["loss/dense"] for entry in read_log(trained / "log.jsonl") if "loss/dense" in entry]
    assert losses[-1] < 0.85 * losses[0]


def test_the_tower_learns_from_a_part_of_the_patches_until_the_rate_falls(tmp_path, monkeypatch):
    seen: list[int] = []

    def features(self, pixels, patches=None):
        seen.append(49 if patches is None else patches.shape[1])
        return read(self, pixels, patches)

    read = VisionLanguageModel.features
    monkeypatch.setattr(VisionLanguageModel, "features", features)
    config = tmp_path / "part.yaml"
    part = CONFIG.replace("dense_steps: 40", "dense_steps: 8").replace("total_steps: 60", "total_steps: 8")
    config.write_text(f"{part}patch_share: 0.25\noptimizer: {{decay_from: 0.5}}\n")
    assert tofc_pretrain(config, "--out", tmp_path / "part").exit_code == 0
    assert seen[:4] == [12] * 4  # a quarter of 49 patches
    assert set(seen[4:]) == {49}

    config.write_text(f"{part}patch_share: 0.0\n")
    assert tofc_pretrain(config, "--out", tmp_path / "none").exit_code == 2


def test_transformers_loads_the_checkpoint(trained):
    base = trained / "base"
    processor = AutoProcessor.from_pretrained(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    content = [{"type": "image"}, {"type": "text", "text": "How many cars are there?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=Image.new("RGB", (200, 100), "grey"), text=text, return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]
    ids = processor.tokenizer("<|im_start|>user 42").input_ids
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["<|im_start|>", "user", "Ġ", "4", "2"]


def test_curves_are_drawn(trained):
    picture = Image.open(trained / "curves.png").convert("L")
    dark = sum(picture.histogram()[:200])
    assert dark > 2000


def test_a_run_goes_on_from_another_s_checkpoint_with_its_tower_standing_still(trained, tmp_path):
    begin = trained / "base"
    config = tmp_path / "more.yaml"
    more = CONFIG.replace("dense_steps: 40", "dense_steps: 0").replace("total_steps: 60", "total_steps: 4")
    config.write_text(f"{more}start_from: {begin}\noptimizer: {{tower_ratio: 0.0}}\n")
    assert tofc_pretrain(config, "--out", tmp_path / "more").exit_code == 0
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
    done = tofc_pretrain(config, "--out", tmp_path / "wide")
    assert done.exit_code == 2
    assert "width 32" in done.output
