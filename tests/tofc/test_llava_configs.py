"""The published recipes: two steps of each on a random model of its widths and layer types, cut in depth."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

import tofc
from entropy import CodecConfig
from tofc.config import load_yaml
from tofc.training import codec
from tofc.training.base_model import BaseModelConfig, build_processor, build_tokenizer
from tofc.training.codec import CodecRun
from tofc.training.data import DataConfig
from tofc.training.settings import TrainConfig

# hidden_size, intermediate_size, num_attention_heads, num_key_value_heads
TEXT = {"0.5b": (896, 4864, 14, 2), "7b": (3584, 18944, 28, 4)}
TIED = {"0.5b": True, "7b": False}
IMAGE_SIZE = 98  # 49 tokens of the tower's own patches


def shallow_base(folder: Path, name: str) -> Path:
    """One block a side at the published widths, with a vocabulary of a few hundred."""
    tokenizer = build_tokenizer(["How many cars are there? There are 3. Describe the picture."], 300)
    width, mlp, heads, groups = TEXT[name]
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_attention_heads": 16, "num_hidden_layers": 1, "patch_size": 14, "image_size": IMAGE_SIZE,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2", "hidden_size": width, "intermediate_size": mlp,
            "num_attention_heads": heads, "num_key_value_heads": groups,
            "num_hidden_layers": 1, "vocab_size": len(tokenizer),
            "tie_word_embeddings": TIED[name], "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=TIED[name],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    build_processor(tokenizer, BaseModelConfig(image_size=IMAGE_SIZE, patch_size=14)).save_pretrained(folder)
    return folder


def instruction_data(folder: Path) -> dict[str, Any]:
    """Some conversations about pictures and one without, as LLaVA's file has them."""
    (folder / "coco").mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 70)).save(folder / f"coco/{number}.jpg")
        turns = [("human", "<image>\nHow many cars?"), ("gpt", f"There are {number}."), ("human", "Sure?")]
        said = [{"from": speaker, "value": value} for speaker, value in [*turns, ("gpt", "Yes.")]]
        rows.append({"id": number, "image": f"coco/{number}.jpg", "conversations": said})
    rows.append(
        {"id": "t", "conversations": [{"from": "human", "value": "3?"}, {"from": "gpt", "value": "4"}]}
    )
    (folder / "mix.json").write_text(json.dumps(rows))
    return {"path": str(folder / "mix.json"), "images": str(folder)}


def examples_of(training: CodecRun) -> list[Any]:
    return [training.corpus.picture("train", i, 0) for i in range(training.corpus.num_pictures("train"))]


def test_a_base_held_in_bfloat16_trains_in_float32(base_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """As on a GPU: the whole way from the survey to the last step, and what is learned is kept precisely."""

    def in_bfloat16(*arguments: Any) -> Any:
        model, processor = read_base(*arguments)
        return model.to(torch.bfloat16), processor

    read_base = codec.read_base
    monkeypatch.setattr(codec, "read_base", in_bfloat16)
    options = {**instruction_data(tmp_path), "size": 48, "validation": 0.2}
    config = TrainConfig(
        base=str(base_folder),
        data=DataConfig("tofc.training.llava:LlavaCorpus", options, num_workers=0),
        codec=CodecConfig(width=32, experts=2, hyper=4, analysis_hidden=16, synthesis_hidden=16),
        tokens={"8": 1.0},
        checkpoint=tofc.config.CheckpointConfig(merging=tofc.config.MergingConfig(tokens=8)),
        **{"total_steps": 2, "feature_steps": 1, "batch_size": 4, "init_pictures": 8, "precision": "bf16"},
        **{"validation_pictures": 2, "log_every": 1, "validate_every": 2, "save_every": 1},
    )
    training = CodecRun(config, tmp_path / "run", Console(quiet=True))
    trained = {n: p.clone() for n, p in training.tuned.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert any("projector" in name for name in trained)
    training.run()
    after = dict(training.tuned.named_parameters())
    moved = [name for name, before in trained.items() if not torch.equal(before, after[name])]
    assert any("projector" in name for name in moved)
    assert any("lora" in name for name in moved)


@pytest.mark.parametrize("name", ["0.5b", "7b"])
def test_two_steps_of_the_published_recipe(name: str, tmp_path: Path) -> None:
    config = load_yaml(f"llava-onevision-{name}", TrainConfig)
    assert (config.adapters.rank, config.steps_for(665_298)) == (64, 5197)
    options = {**config.data.options, **instruction_data(tmp_path)}
    options |= {"size": IMAGE_SIZE, "validation": 0.2, "report": str(tmp_path / "skipped.tsv")}
    short = dataclasses.replace(
        config,
        base=str(shallow_base(tmp_path / "base", name)),
        data=dataclasses.replace(config.data, options=options, num_workers=0),
        tokens={"8": 0.5, "all": 0.5},
        checkpoint=dataclasses.replace(config.checkpoint, merging=tofc.config.MergingConfig(tokens=8)),
        **{"total_steps": 2, "feature_steps": 1, "batch_size": 4, "micro_batch": 2, "init_pictures": 8},
        **{"validation_pictures": 2, "log_every": 1, "validate_every": 2, "save_every": 1},
    )
    console = Console(quiet=True)
    training = CodecRun(short, tmp_path / "ours-run", console)
    assert training.packer.template == training.processor.chat_template
    text_only, pictured = (
        [e for e in examples_of(training) if (e.pixels is None) == on][:1] for on in (True, False)
    )
    assert training.pack(text_only + pictured).has_picture.tolist() == [False, True]
    training.run()
    folder = tmp_path / "ours"
    training.write(folder)
    log = (tmp_path / "ours-run" / "log.jsonl").read_text().splitlines()
    losses = [entry["loss/answers"] for entry in map(json.loads, log) if "loss/answers" in entry]
    assert losses[0] == 0.0, "the first step is of the codec alone"
    assert 0 < losses[1] < 100
    assert (folder / "adapters").is_dir()
    device, edge = tofc.Device.from_pretrained(folder), tofc.Edge.from_pretrained(folder)
    packet = device.encode(tmp_path / "coco/0.jpg", quality=8)
    assert edge.decode(packet).shape == (8, 1152)
    assert edge.answer(packet, "How many cars?", max_new_tokens=2).exit == "full"
