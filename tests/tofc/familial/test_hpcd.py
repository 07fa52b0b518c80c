"""HPCD: components of a plain language model; their training is in test_familial_training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from tofc.errors import UserError
from tofc.familial.decomposition import watch_inputs
from tofc.language.model import text_model
from tofc.training.hpcd import Components

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


def test_the_first_component_is_the_whitened_decomposition(components: Components) -> None:
    from tofc.familial.decomposition import decompose

    weight, whitening, layer = components._layers[0]
    rank = layer.rank // COUNT
    components.begin(1)
    up, down = decompose(weight, whitening).factors(rank)
    torch.testing.assert_close(layer.up[:rank].T @ layer.down[:rank], (up.T @ down).float())


def test_components_that_cannot_be_are_refused(components: Components) -> None:
    with pytest.raises(UserError, match="1 to 4"):
        components.begin(5)
    with pytest.raises(UserError, match="too many"):
        _too_many(components)


def _too_many(components: Components) -> Components:
    blocks = dict(enumerate(text_model(components.model).layers))
    with watch_inputs(blocks) as seen, torch.no_grad():
        components.model(**batches(components.model, 1, seed=0)[0][0])
    return Components(components.model, seen, 400)
