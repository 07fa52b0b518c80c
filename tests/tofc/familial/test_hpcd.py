"""HPCD: components are fitted one after another, earlier ones stay, and the first k are a member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from tofc import familial
from tofc.errors import UserError
from tofc.familial.branches import count_parameters
from tofc.familial.calibration import watch_inputs
from tofc.familial.causal import load_family
from tofc.familial.hpcd import Components, distillation_loss
from tofc.familial.store import save_family
from tofc.familial.views import main_spec
from tofc.language.model import text_model

COUNT = 4


@pytest.fixture(scope="module")
def model() -> Any:
    config = Qwen2Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=61, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Qwen2ForCausalLM(config).eval().requires_grad_(False)


def batches(model: Any, count: int, seed: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Random prompts, and what the model itself would say next at each place."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        ids = torch.randint(61, (8, 16), generator=generator)
        with torch.no_grad():
            found.append(({"input_ids": ids}, model(ids).logits.argmax(-1)))
    return found


@pytest.fixture(scope="module")
def components(model: Any) -> Components:
    blocks = dict(enumerate(text_model(model).layers))
    with watch_inputs(blocks) as seen, torch.no_grad():
        for arguments, _ in batches(model, 8, seed=0):
            model(**arguments)
    return Components(model, seen, COUNT, ratio=1.2)


def error(components: Components, number: int) -> float:
    """The loss of the first components on prompts that none has seen."""
    losses = []
    for arguments, targets in batches(components.model, 4, seed=99):
        with torch.no_grad():
            teaching = components.model(**arguments).logits
            logits = components.member(number)(**arguments).logits
        losses.append(float(distillation_loss(logits, teaching, targets, 0.4)))
    return sum(losses) / len(losses)


def test_components_are_fitted_one_after_another(components: Components, model: Any, tmp_path: Path) -> None:
    layers = [layer for _, _, layer in components._layers]
    left_over = []
    for number in range(1, COUNT + 1):
        size = [layer.rank // COUNT for layer in layers]
        frozen = [layer.down[: (number - 1) * s].clone() for layer, s in zip(layers, size, strict=True)]
        components.begin(number)
        started = error(components, number)
        components.fit(number, batches(model, 30, seed=number), learning_rate=3e-4)
        for layer, s, before in zip(layers, size, frozen, strict=True):
            assert torch.equal(layer.down[: (number - 1) * s], before)
            assert not bool(layer.down[number * s :].any())
        left_over.append(error(components, number))
        assert left_over[-1] < started
    assert left_over == sorted(left_over, reverse=True)

    model.save_pretrained(tmp_path / "base")
    save_family(tmp_path / "family", tmp_path / "base", main_spec(model), [components.branch], torch.float32)
    assert [member.name for member in familial.family(tmp_path)] == ["h-25", "h-50", "h-75", "full", "h"]
    ids = batches(model, 1, seed=5)[0][0]["input_ids"]
    settings: Any = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for number, name in enumerate(("h-25", "h-50", "h-75", "h"), start=1):
        read = load_family(tmp_path, name)
        expected = components.member(number).generate(ids, **settings)
        assert torch.equal(read.model().generate(ids, **settings), expected)
        member = read.named(name)
        assert member.num_parameters == count_parameters(text_model(read.model()))


def test_the_first_component_is_the_whitened_decomposition(components: Components) -> None:
    from tofc.familial.decomposition import decompose

    weight, whitening, layer = components._layers[0]
    rank = layer.rank // COUNT
    components.begin(1)
    up, down = decompose(weight, whitening).factors(rank)
    torch.testing.assert_close(layer.up[:rank].T @ layer.down[:rank], (up.T @ down).float())


def test_the_loss_is_weighted_as_in_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teaching = torch.randn(2, 2, 3, 7, generator=generator)
    targets = torch.tensor([[1, -100, 3], [0, 2, -100]])
    known = targets != -100
    entropy = torch.nn.functional.cross_entropy(logits[known], targets[known])
    p, q = teaching[known].softmax(-1), logits[known].softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    loss = distillation_loss(logits, teaching, targets, 0.4)
    torch.testing.assert_close(loss, 0.6 * entropy + 0.4 * divergence)


def test_components_that_cannot_be_are_refused(components: Components) -> None:
    with pytest.raises(UserError, match="1 to 4"):
        components.member(5)
    with pytest.raises(UserError, match="too many"):
        _too_many(components)


def _too_many(components: Components) -> Components:
    blocks = dict(enumerate(text_model(components.model).layers))
    with watch_inputs(blocks) as seen, torch.no_grad():
        components.model(**batches(components.model, 1, seed=0)[0][0])
    return Components(components.model, seen, 400)
