"""Packed questions give the logits of separate ones, and the training layouts those of the stock model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tofc.training.base_model import (
    IMAGE_TOKEN,
    BaseModelConfig,
    build_model,
    build_processor,
    build_tokenizer,
)
from tofc.training.data import Turn
from tofc.training.forward import VisionLanguageModel
from tofc.training.packing import IGNORED, Packer, attention_mask, position_ids

CONFIG = BaseModelConfig(
    image_size=64, vision_width=32, vision_layers=2, vision_heads=2,
    text_width=48, text_layers=2, text_heads=3, text_mlp=64, vocab_size=320,
)  # fmt: skip
TURNS = (
    Turn("How many cars are there?", "3"),
    Turn("Is there a red bus in the picture?", "Yes"),
    Turn("What does the sign say?", "42", weight=0.5),
)


@pytest.fixture(scope="module")
def parts():
    tokenizer = build_tokenizer([turn.prompt for turn in TURNS] * 20, CONFIG.vocab_size)
    model = build_model(CONFIG, tokenizer, seed=3).eval()
    return tokenizer, model, VisionLanguageModel(model).eval()


def test_packed_answers_cost_what_separate_ones_cost(parts):
    tokenizer, _, grounded = parts
    packer = Packer(tokenizer, IMAGE_TOKEN)
    visual = torch.randn(1, 7, CONFIG.text_width, generator=torch.Generator().manual_seed(0))
    together = grounded.answers(visual, packer.pack([TURNS])).loss
    total = weights = torch.zeros(())
    for turn in TURNS:
        alone = packer.pack([(turn,)])
        total = total + grounded.answers(visual, alone).loss * alone.weights.sum()
        weights = weights + alone.weights.sum()
    torch.testing.assert_close(together, total / weights, rtol=1e-5, atol=1e-6)


def test_packed_targets_are_the_answer_and_its_end(parts):
    tokenizer, _, _ = parts
    packed = Packer(tokenizer, IMAGE_TOKEN, round_to=1).pack([TURNS])
    for number, turn in enumerate(TURNS):
        learned = packed.targets[0][(packed.segments[0] == number) & (packed.targets[0] != IGNORED)]
        assert tokenizer.decode(learned) == turn.answer + "<|im_end|>"


def test_mask_hides_questions_from_each_other():
    segments = torch.tensor([[0, 0, 1, 1, -1]])
    mask = attention_mask(segments, num_shared=2)[0, 0]
    assert mask[3].tolist() == [True, True, True, True, False, False, False]
    assert mask[5].tolist() == [True, True, False, False, True, True, False]
    assert mask[6].tolist() == [False] * 6 + [True]
    assert position_ids(torch.tensor([[0, 1, 0, 1, 0]]), 2).tolist() == [[0, 1, 2, 3, 2, 3, 2]]


def test_stock_layout_predicts_what_the_stock_model_predicts(parts):
    """The same picture through AutoProcessor's path and through the packed training path."""
    tokenizer, model, grounded = parts
    processor = build_processor(tokenizer, CONFIG)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = [{"type": "image"}, {"type": "text", "text": TURNS[0].prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=Image.fromarray(pixels), text=text, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits[0, -1]
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        visual = grounded.visual(grounded.features(planes), stock=True)
        packed = Packer(tokenizer, IMAGE_TOKEN, round_to=1).pack([(TURNS[0],)])
        answer = grounded.answers(visual, packed)
    target = tokenizer(TURNS[0].answer).input_ids[0]
    ends = torch.log_softmax(expected, -1)[target]
    whole = packed.weights[packed.targets != IGNORED]
    # The loss averages the answer's token and the end token; redo the end with the stock model.
    longer = torch.cat([inputs["input_ids"], torch.tensor([[target]])], dim=1)
    inputs = {**inputs, "input_ids": longer, "attention_mask": torch.ones_like(longer)}
    with torch.no_grad():
        final = torch.log_softmax(model(**inputs).logits[0, -1], -1)[tokenizer.eos_token_id]
    expected_loss = -(whole[0] * ends + whole[1] * final) / whole.sum()
    torch.testing.assert_close(answer.loss, expected_loss, rtol=1e-4, atol=1e-5)
