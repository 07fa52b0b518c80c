"""The published LLaVA-OneVision checkpoints at their exact shapes, with random weights or none at all."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionModel,
)

import tofc
from encoders import VisionEncoder
from entropy import CodecConfig, TrainableCodec
from tofc.config import CheckpointConfig, MergingConfig
from tofc.language.load import language_skeleton, load_language_side
from tofc.model import load_base_model, save_checkpoint, visual_embeddings
from tofc.tiling import tile_layout
from tofc.training.base_model import CHAT_TEMPLATE

PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
SO400M = {
    "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "model_type": "siglip_vision_model",
    "num_attention_heads": 16, "num_hidden_layers": 26, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
QWEN2 = {
    "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu", "max_position_embeddings": 32768,
    "model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "use_sliding_window": False,
}  # fmt: skip
ONEVISION = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"], "image_grid_pinpoints": PINPOINTS,
    "image_token_index": 151646, "model_type": "llava_onevision", "projector_hidden_act": "gelu",
    "torch_dtype": "float16", "video_token_index": 151647, "vision_aspect_ratio": "anyres_max_9",
    "vision_config": SO400M, "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
}  # fmt: skip
CONFIG_05B: dict[str, Any] = {
    **ONEVISION, "tie_word_embeddings": True, "text_config": {
        **QWEN2, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 152000,
    },
}  # fmt: skip
CONFIG_7B: dict[str, Any] = {
    **ONEVISION, "tie_word_embeddings": False, "text_config": {
        **QWEN2, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 152128,
    },
}  # fmt: skip


def config_of(values: dict[str, Any]) -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig.from_dict(copy.deepcopy(values))


def millions(module: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 1)


@pytest.mark.parametrize(
    "values, projector, layer, embedding",
    [(CONFIG_05B, 1.8, 14.9, 136.2), (CONFIG_7B, 17.0, 233.1, 545.2)],
    ids=["0.5B", "7B"],
)
def test_parameter_counts(values: dict[str, Any], projector: float, layer: float, embedding: float) -> None:
    config = config_of(values)
    model = language_skeleton(config)
    text = model.model.language_model
    assert millions(model.model.multi_modal_projector) == projector
    assert {millions(block) for block in text.layers} == {layer}
    assert len(text.layers) == config.text_config.num_hidden_layers
    assert millions(text.embed_tokens) == embedding
    assert millions(model.lm_head) == embedding
    assert (model.lm_head.weight is text.embed_tokens.weight) == config.tie_word_embeddings
    with torch.device("meta"):
        encoder = VisionEncoder(SiglipVisionModel(config.vision_config))
    # The published count has the norm behind the last block, which no feature passes through.
    assert millions(encoder) == 397.7
    assert (encoder.width, encoder.num_tokens, encoder.grid) == (1152, 729, (27, 27))


def test_a_model_that_is_tied_by_its_text_config_alone(base_folder: Path, tmp_path: Path) -> None:
    """As the published 0.5B: `tie_word_embeddings` is false as a whole, and there is no lm_head."""
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    values = json.loads((folder / "config.json").read_text())
    assert values["text_config"]["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": False}))
    models = [load_base_model(where, torch.float32) for where in (base_folder, folder)]
    models += [load_language_side(where) for where in (base_folder, folder)]
    first, *others = (model.lm_head.weight for model in models)
    assert all(torch.equal(first, other) for other in others)
    assert models[3].lm_head.weight is models[3].model.language_model.embed_tokens.weight


@pytest.mark.parametrize("size, tokens", [((384, 384), 1485), ((480, 640), 2929), ((1080, 1920), 7269)])
def test_the_7b_model_on_the_meta_device(size: tuple[int, int], tokens: int) -> None:
    """Shapes through our own assembly: stock token counts unmerged, K + 1 merged, logits as wide."""
    config = config_of(CONFIG_7B)
    model = language_skeleton(config)
    layout = tile_layout(size, "anyres", config)
    with torch.device("meta"):
        whole = tofc.Features(torch.empty(layout.num_tokens, 1152), size, "anyres", layout)
        merged = tofc.Features(torch.empty(64, 1152), size, "anyres", layout)
    long, short = visual_embeddings(model, [whole, merged])
    assert long.shape == (tokens, 3584)
    assert short.shape == (65, 3584)
    no_mask = {"full_attention": None}  # making one would look at values, and there are none
    logits = model(inputs_embeds=short[None], attention_mask=no_mask, use_cache=False).logits
    assert logits.shape == (1, 65, 152128)


def published_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and fillers, and behind them the special tokens at their published ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [f"filler{i}" for i in range(151643 - len(alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"])
    assert tokenizer.token_to_id("<image>") == 151646
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )


@pytest.fixture(scope="module")
def published_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 0.5B model cut to two layers on each side, with the files that published repositories hold."""
    folder = tmp_path_factory.mktemp("published") / "llava-onevision-qwen2-0.5b-ov-hf"
    values = copy.deepcopy(CONFIG_05B)
    values["text_config"]["num_hidden_layers"] = 2
    values["vision_config"]["num_hidden_layers"] = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig.from_dict(values))
    model.to(torch.bfloat16).save_pretrained(folder)
    published_tokenizer().save_pretrained(folder)
    processor = {
        "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 729, "image_token": "<image>",
        "video_token": "<video>", "vision_feature_select_strategy": "full",
    }  # fmt: skip
    image_processor = {
        "image_processor_type": "LlavaOnevisionImageProcessor", "processor_class": "LlavaOnevisionProcessor",
        "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
        "image_grid_pinpoints": PINPOINTS, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3,
        "rescale_factor": 1 / 255, "size": {"height": 384, "width": 384},
    }  # fmt: skip
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def sides(published_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[tofc.Device, tofc.Edge]:
    """Both sides of a checkpoint of ours around the published one, which stays where it is."""
    features = torch.randn(1, 256, 1152, generator=torch.Generator().manual_seed(0))
    trainable = TrainableCodec(CodecConfig(width=1152, hyper=4, analysis_hidden=16, synthesis_hidden=16))
    trainable.fit_transform(features)
    folder = save_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "ours",
        published_folder,
        trainable.export(features),
        CheckpointConfig(tiling="anyres", merging=MergingConfig(tokens=64)),
        copy_base=False,
    )
    return tofc.Device.from_pretrained(folder), tofc.Edge.from_pretrained(folder)


def test_the_05b_layer_types_from_picture_to_answer(sides, make_picture) -> None:
    """Anyres with padding, merged to 64 of some two thousand tokens, through bytes to an answer."""
    device, edge = sides
    picture = make_picture(700, 380)
    features = device.features(picture)
    assert features.layout.num_tiles == 3
    assert features.layout.num_tokens == 729 + features.layout.grid[0] * features.layout.grid[1] < 3 * 729
    packet = tofc.Packet.from_bytes(bytes(device.encode(picture)))
    assert edge.decode(packet).shape == (64, 1152)
    answer = edge.answer(packet, "What is shown?", max_new_tokens=3)
    assert len(answer.tokens) <= 3


def test_a_tile_of_729_tokens_unmerged(sides, make_picture) -> None:
    device, edge = sides
    pictures = device.features_of([make_picture(384, 384), make_picture(200, 384)], "all")
    assert [tuple(p.tokens.shape) for p in pictures] == [(729, 1152)] * 2
    embeddings = visual_embeddings(edge.model, pictures)
    assert [tuple(e.shape) for e in embeddings] == [(730, 896)] * 2
    assert edge.answer_features(pictures[:1], "What is shown?", max_new_tokens=2)[0].exit == "full"
