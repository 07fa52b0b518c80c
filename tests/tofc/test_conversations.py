"""Conversations of several turns, and rows without picture: packed, they cost what the stock model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tofc.training.base_model import (
    CHAT_TEMPLATE,
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
# What published LLaVA-OneVision repositories hold: lists of parts only, and an answer stands in a history
# behind "assistant \n" although the prompt to answer ends in "assistant\n".
PUBLISHED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if message['role'] != 'assistant' %}{{ '\n' + part['text'] }}"
    "{% else %}{% generation %}{{ '\n' + part['text'] }}{% endgeneration %}{% endif %}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = (
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FIRST = Turn("How many cars are there?", "There are 3.")
SECOND = Turn("What colour is the first?", "Red", weight=0.5, continues=True)
THIRD = Turn("And the bus?", "A blue one, é 東", continues=True)
ANOTHER = Turn("Is there a red bus in the picture?", "Yes")
CONVERSATION = (FIRST, SECOND, THIRD)


@pytest.fixture(scope="module")
def parts():
    tokenizer = build_tokenizer([FIRST.prompt, SECOND.prompt, ANOTHER.prompt] * 20, CONFIG.vocab_size)
    model = build_model(CONFIG, tokenizer, seed=3).eval()
    return build_processor(tokenizer, CONFIG), model, VisionLanguageModel(model).eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def stock_cost(parts, turns: Sequence[Turn], template: str, pixels: np.ndarray | None) -> tuple[float, float]:
    """Weighted sum of the answers' losses, and of the weights, by the stock processor and model alone."""
    processor, model, _ = parts
    messages = []
    for turn in turns:
        image = [{"type": "image"}] if pixels is not None and not messages else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": turn.prompt}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    prompt = processor.apply_chat_template(messages[:-1], chat_template=template, add_generation_prompt=True)
    text = prompt + turns[-1].answer + "<|im_end|>"
    images = {} if pixels is None else {"images": Image.fromarray(pixels)}
    inputs = processor(text=text, return_tensors="pt", **images)
    ids = inputs["input_ids"][0].tolist()
    with torch.no_grad():
        log_probabilities = torch.log_softmax(model(**inputs).logits[0].float(), -1)
    cost = total = 0.0
    for turn in turns:
        answer = processor.tokenizer(turn.answer + "<|im_end|>").input_ids
        (start,) = [i for i in range(len(ids)) if ids[i : i + len(answer)] == answer]
        for place, token in enumerate(answer):
            weight = turn.weight * (0.2 if place == len(answer) - 1 else 1.0)
            cost -= weight * float(log_probabilities[start + place - 1, token])
            total += weight
    return cost, total


def visual_embeddings(parts, pixels: np.ndarray) -> torch.Tensor:
    _, _, grounded = parts
    with torch.no_grad():
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        return grounded.visual(grounded.features(planes), stock=True)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, PUBLISHED, CHATML], ids=["ours", "published", "chatml"])
@pytest.mark.parametrize("turns", [(FIRST,), CONVERSATION], ids=["one turn", "three turns"])
def test_rows_with_and_without_picture_cost_what_the_stock_model_says(parts, pixels, template, turns) -> None:
    """A batch of both, the row without picture standing behind embeddings that it must not see."""
    processor, _, grounded = parts
    packer = Packer(processor.tokenizer, IMAGE_TOKEN, template=template)
    visual = visual_embeddings(parts, pixels)
    noise = 50.0 * torch.randn(visual.shape, generator=torch.Generator().manual_seed(1))
    packed = packer.pack([(*turns, ANOTHER), (ANOTHER, *turns)], has_picture=[True, False])
    with torch.no_grad():
        ours = float(grounded.answers(torch.cat([visual, noise]), packed).loss)
    costs = [
        stock_cost(parts, conversation, template, shown)
        for shown in (pixels, None)
        for conversation in (turns, (ANOTHER,))
    ]
    expected = sum(cost for cost, _ in costs) / sum(total for _, total in costs)
    assert ours == pytest.approx(expected, rel=1e-5)
    with_picture, without = costs[0][0], costs[2][0]
    assert abs(with_picture - without) > 1e-3, "the picture changes nothing: the test shows nothing"


def test_the_tokenizers_own_template_is_the_default(parts) -> None:
    tokenizer = parts[0].tokenizer
    packed = Packer(tokenizer, IMAGE_TOKEN).pack([CONVERSATION], has_picture=[False])
    again = Packer(tokenizer, IMAGE_TOKEN, template=CHAT_TEMPLATE).pack([CONVERSATION], has_picture=[False])
    assert torch.equal(packed.input_ids, again.input_ids)


words = st.text(st.characters(exclude_categories=["Cs", "Co"], exclude_characters="<"), max_size=12)


@settings(max_examples=60)
@given(st.lists(st.tuples(words, words, st.booleans()), min_size=1, max_size=5), st.booleans())
def test_what_is_learned_is_the_answers_and_their_ends(parts, drawn, shown: bool) -> None:
    tokenizer = parts[0].tokenizer
    turns = [Turn(q, a, continues=i > 0 and follows) for i, (q, a, follows) in enumerate(drawn)]
    packer = Packer(tokenizer, IMAGE_TOKEN, round_to=1, template=PUBLISHED)
    packed = packer.pack([tuple(turns)], has_picture=[shown])
    learned = packed.targets[0][packed.targets[0] != IGNORED].tolist()
    expected = [t for turn in turns for t in tokenizer(turn.answer + "<|im_end|>").input_ids]
    assert learned == expected
    # Targets are the tokens that follow, but for the last one of each conversation.
    follows = (packed.segments[0, 1:] == packed.segments[0, :-1]) & (packed.targets[0, :-1] != IGNORED)
    assert torch.equal(packed.targets[0, :-1][follows], packed.input_ids[0, 1:][follows])
    begins = [i for i, turn in enumerate(turns) if not turn.continues]
    assert int(packed.segments.max()) + 1 == len(begins)


def test_the_mask_hides_the_picture_from_rows_without_one() -> None:
    segments, offsets = torch.tensor([[0, 0, 1], [0, 0, -1]]), torch.tensor([[0, 1, 0], [0, 1, 0]])
    has_picture = torch.tensor([True, False])
    mask = attention_mask(segments, 2, has_picture)[:, 0]
    assert mask[0, 3].tolist() == [True, True, True, True, False]
    assert mask[1, 3].tolist() == [False, False, True, True, False]
    assert mask.any(-1).all(), "a place that sees nothing makes a NaN"
    assert position_ids(offsets, 2, has_picture).tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 1, 0]]


# -- rows that are too long --


def lengths(packer: Packer, turns: Sequence[Turn]) -> list[int]:
    """Tokens of the first turn, of the first two, and so on."""
    packed = [packer.pack([tuple(turns[: count + 1])]) for count in range(len(turns))]
    return [int((batch.segments >= 0).sum()) for batch in packed]


def test_long_conversations_are_cut_between_turns(parts) -> None:
    packer = Packer(parts[0].tokenizer, IMAGE_TOKEN, round_to=1, template=PUBLISHED)
    one, two, three = lengths(packer, CONVERSATION)
    for limit, count in ((three, 3), (three - 1, 2), (two, 2), (two - 1, 1), (one, 1)):
        packed, expected = packer.pack([CONVERSATION], limit), packer.pack([CONVERSATION[:count]])
        assert all(torch.equal(vars(packed)[name], value) for name, value in vars(expected).items())


def test_a_first_turn_that_is_too_long_is_cut_at_its_end(parts) -> None:
    packer = Packer(parts[0].tokenizer, IMAGE_TOKEN, round_to=1)
    whole = packer.pack([(FIRST,)])
    length = whole.input_ids.shape[1]
    for limit in (length - 1, 3):
        packed = packer.pack([CONVERSATION], limit)
        assert torch.equal(packed.input_ids, whole.input_ids[:, :limit])
        assert torch.equal(packed.targets, whole.targets[:, :limit])
    visual = torch.zeros(1, 3, CONFIG.text_width)
    assert parts[2].answers(visual, packed).loss.item() == 0.0, "three tokens hold no answer, so no loss"


def test_what_no_longer_fits_makes_room_for_what_does(parts) -> None:
    packer = Packer(parts[0].tokenizer, IMAGE_TOKEN, round_to=1)
    long = Turn("Describe it.", "a car " * 40)
    room = sum(lengths(packer, [turn])[0] for turn in (FIRST, ANOTHER))
    kept, expected = packer.pack([(FIRST, long, ANOTHER)], room), packer.pack([(FIRST, ANOTHER)])
    assert torch.equal(kept.input_ids, expected.input_ids)
    assert torch.equal(kept.segments, expected.segments)


# -- what is refused --


@pytest.mark.parametrize(
    "old, new",
    [
        ("part['text'] }}{% endgen", "part['text'] | upper }}{% endgen"),
        ("'\n' + part['text'] }}{% endgen", "'' }}{% endgen"),
    ],
    ids=["changes answers", "drops answers"],
)
def test_templates_that_change_answers(parts, old: str, new: str) -> None:
    assert old in PUBLISHED
    packer = Packer(parts[0].tokenizer, IMAGE_TOKEN, template=PUBLISHED.replace(old, new))
    packer.pack([(FIRST, replace(SECOND, continues=False))])
    with pytest.raises(ValueError, match=r"does not leave the answers.*continues=False"):
        packer.pack([(FIRST, SECOND)])


def test_templates_that_close_answers_with_another_token(parts) -> None:
    packer = Packer(parts[0].tokenizer, IMAGE_TOKEN, template=PUBLISHED.replace("<|im_end|>", "</s>"))
    with pytest.raises(ValueError, match=r"closes an answer with '</s>.*set eos_token"):
        packer.pack([(FIRST, SECOND)])


def test_turns_that_cannot_be_packed(parts) -> None:
    packer = Packer(parts[0].tokenizer, IMAGE_TOKEN)
    with pytest.raises(ValueError, match="nothing before"):
        packer.pack([(SECOND,)])
    with pytest.raises(ValueError, match="take <image> out of the text"):
        packer.pack([(Turn("What is <image> about?", "Cars"),)])
