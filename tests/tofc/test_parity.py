"""Without merging and coding the two sides together are the stock model, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaOnevisionForConditionalGeneration

import tofc
from tofc.config import MergingConfig, resolve
from tofc.language.load import load_language_side
from tofc.language.prompt import Prompt
from tofc.model import visual_embeddings

# (width, height): one tile, padded grids, a full grid, and one above the stock model's token limit.
SIZES = [(48, 48), (100, 70), (41, 130), (96, 96), (400, 390)]
QUESTION = "How many cars are there?"


@pytest.fixture(scope="module")
def stock(base_folder: Path):
    model = AutoModelForImageTextToText.from_pretrained(base_folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(base_folder)


@pytest.fixture(scope="module")
def plain(base_folder: Path):
    """Both sides of the same model, loaded as a plain LLaVA-OneVision checkpoint."""
    return tofc.Device.from_pretrained(base_folder), tofc.Edge.from_pretrained(base_folder, images=True)


def stock_inputs(processor, pictures: list[list[Image.Image]], questions: list[str]) -> dict:
    texts = []
    for group, question in zip(pictures, questions, strict=True):
        content = [*({"type": "image"} for _ in group), {"type": "text", "text": question}]
        texts.append(
            processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )
    return processor(text=texts, images=pictures, padding=True, return_tensors="pt")


def our_logits(edge: tofc.Edge, groups: list[list[tofc.Features]], questions: list[str]) -> torch.Tensor:
    """Logits [B, L, V]; the pictures of all prompts are projected together, as the stock model does it."""
    embeddings = iter(visual_embeddings(edge.model, [f for group in groups for f in group]))
    prompts = [
        Prompt.build(
            edge.tokenizer, edge.template, edge.model.config, question, [next(embeddings) for _ in group]
        )
        for group, question in zip(groups, questions, strict=True)
    ]
    embeds, mask = Prompt.batch(prompts, edge.model)
    with torch.no_grad():
        return edge.model(inputs_embeds=embeds, attention_mask=mask).logits


@pytest.mark.parametrize("size", SIZES)
def test_one_picture_gives_the_stock_logits(size: tuple[int, int], stock, plain, make_picture) -> None:
    model, processor = stock
    device, edge = plain
    picture = make_picture(*size)
    with torch.no_grad():
        expected = model(**stock_inputs(processor, [[picture]], [QUESTION])).logits
    actual = our_logits(edge, [device.features_of([picture], "all")], [QUESTION])
    assert torch.equal(actual, expected)


def test_several_pictures_give_the_stock_logits(stock, plain, make_picture) -> None:
    model, processor = stock
    device, edge = plain
    pictures = [make_picture(*size, seed=i) for i, size in enumerate(SIZES[:3])]
    with torch.no_grad():
        expected = model(**stock_inputs(processor, [pictures], [QUESTION])).logits
    features = device.features_of(pictures, "all")
    assert [f.tiling for f in features] == ["padded"] * 3
    assert torch.equal(our_logits(edge, [features], [QUESTION]), expected)


def test_a_left_padded_batch_gives_the_stock_logits(stock, plain, make_picture) -> None:
    """Prompts of different lengths, one with two pictures; every position that is no padding is equal."""
    model, processor = stock
    device, edge = plain
    groups = [
        [make_picture(100, 70)],
        [make_picture(60, 48, 1), make_picture(48, 90, 2)],
        [make_picture(48, 48, 3)],
    ]
    questions = [QUESTION, "What colour is it?", "Is it red? Yes or no?"]
    inputs = stock_inputs(processor, groups, questions)
    assert inputs["attention_mask"].min() == 0, "the batch needs no padding: the test shows nothing"
    with torch.no_grad():
        expected = model(**inputs).logits
    seen = iter(pixels_of_a_batch(device, groups))
    actual = our_logits(edge, [[next(seen) for _ in group] for group in groups], questions)
    shown = inputs["attention_mask"].bool()
    assert torch.equal(actual[shown], expected[shown])


def pixels_of_a_batch(device: tofc.Device, groups: list[list[Image.Image]]) -> list[tofc.Features]:
    """Features of all groups from one pass of the tower: a pass of another size may round differently."""
    cut = [device.vision.cut(group, "anyres" if len(group) == 1 else "padded") for group in groups]
    tiles = [tile for group in cut for tile in group]
    outputs = device.vision.see(tiles)
    features = []
    for group in groups:
        for picture in group:
            (alone,) = device.features_of([picture], "all")
            tiling = "anyres" if len(group) == 1 else "padded"
            layout = alone.layout if tiling == "anyres" else device.features_of(group, "all")[0].layout
            output = outputs[len(features)]
            features.append(tofc.Features(layout.select(output), alone.image_size, tiling, layout))
    return features


@pytest.mark.parametrize("size", SIZES[:2])
def test_answers_are_the_stock_generations(size: tuple[int, int], stock, plain, make_picture) -> None:
    model, processor = stock
    _, edge = plain
    picture = make_picture(*size)
    inputs = stock_inputs(processor, [[picture]], [QUESTION])
    length = inputs["input_ids"].shape[1]
    expected = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, length:].tolist()
    answer = edge.answer_image(picture, QUESTION, max_new_tokens=20)
    assert list(answer.tokens) == [t for t in expected if t not in edge.ends]
    assert answer.text == processor.tokenizer.decode(answer.tokens, skip_special_tokens=True).strip()


def test_merging_to_as_many_tokens_changes_nothing(plain, make_picture) -> None:
    device, edge = plain
    picture = make_picture(100, 70)
    whole = device.features(picture, "all")
    merged = device.features(picture, whole.layout.num_tokens)
    assert torch.equal(whole.tokens, merged.tokens)
    assert not merged.is_merged
    assert torch.equal(our_logits(edge, [[whole]], [QUESTION]), our_logits(edge, [[merged]], [QUESTION]))


def test_merged_features_are_projected_and_end_in_a_newline(plain, make_picture) -> None:
    device, edge = plain
    features = device.features(make_picture(100, 70), 7)
    (embeddings,) = visual_embeddings(edge.model, [features])
    expected = edge.model.model.multi_modal_projector(features.tokens)
    assert torch.equal(embeddings[:-1], expected)
    assert torch.equal(embeddings[-1], edge.model.model.image_newline)


def test_padding_is_dropped_before_merging(plain, make_picture) -> None:
    """A wide picture leaves padded rows in its grid; none of them may reach the clustering."""
    device, _ = plain
    features = device.features(make_picture(96, 50), 5)
    assert features.layout.num_tiles == 1 + 2 * 2
    assert features.layout.grid == (6, 12)
    assert features.layout.num_tokens == 36 + 6 * 12
    assert features.clusters.assignment.shape == (1, 36 + 6 * 12)
    assert features.cluster_map.shape == (6, 6)


@pytest.mark.parametrize("names", ["published", "new"])
def test_both_layouts_of_tensor_names_load_alike(
    names: str, base_folder: Path, stock, tmp_path: Path
) -> None:
    model, _ = stock
    model.save_pretrained(tmp_path, save_original_format=names == "published")
    loaded = load_language_side(tmp_path).state_dict()
    expected = {k: v for k, v in model.state_dict().items() if "vision_tower" not in k}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_a_sharded_checkpoint_loads_without_the_shards_of_the_tower(
    stock, base_folder: Path, tmp_path: Path
) -> None:
    model, _ = stock
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {shard for name, shard in weight_map.items() if "vision_tower" not in name}
    removed = set(weight_map.values()) - needed
    assert removed, "no shard holds only the tower: the test shows nothing"
    for shard in removed:
        (tmp_path / shard).unlink()
    loaded = load_language_side(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert isinstance(loaded, LlavaOnevisionForConditionalGeneration)


def test_base_tiling_is_the_stock_layout_of_one_tile(checkpoint_folder: Path, stock, make_picture) -> None:
    """Unmerged: the tokens of the tile, then one newline embedding."""
    assert resolve(checkpoint_folder).config.merging == MergingConfig(tokens=12)
    device = tofc.Device.from_pretrained(checkpoint_folder)
    edge = tofc.Edge.from_pretrained(checkpoint_folder)
    model, processor = stock
    picture = make_picture(100, 70)
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"][:, :1]  # [1, 1, 3, S, S]
    packed = model.get_image_features(
        pixels, torch.tensor([[70, 100]]), batch_num_images=torch.tensor([2])
    ).pooler_output
    (ours,) = visual_embeddings(edge.model, [device.features(picture, "all")])
    assert torch.equal(ours, packed[0])
