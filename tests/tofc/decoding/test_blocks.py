"""Blocks that are run a few positions at a time give what transformers gives in one pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, Qwen2Config, Qwen2Model
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tofc.decoding.blocks import Grown, Layer, turns
from tofc.errors import UserError

WIDTH, LENGTH = 32, 90  # longer than the memory that is there at first


def _model(heads: int, key_value_heads: int) -> Qwen2Model:
    config = Qwen2Config(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen2Model(config).eval()


@pytest.mark.parametrize(("heads", "key_value_heads"), [(4, 4), (4, 2), (4, 1)])
@torch.inference_mode()
def test_blocks_agree_with_transformers_however_positions_come(heads: int, key_value_heads: int) -> None:
    model = _model(heads, key_value_heads)
    given = torch.randn(1, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    wanted = model(inputs_embeds=given).last_hidden_state[0]
    cosines, sines = turns(model.rotary_emb, given, 0)
    layers = [Layer(block) for block in model.layers]
    found = torch.empty(LENGTH, WIDTH)
    for start, end in [(0, 40), (40, 41), (41, 49), (44, 45), (45, 46), (46, 80), (80, LENGTH)]:
        for layer in layers:
            layer.crop(start)
        states = given[0, start:end]
        mask = torch.full((end - start, end), float("-inf")).triu(start + 1) if start else None
        for layer in layers:
            states = layer(states, cosines[start:end], sines[start:end], mask)
        found[start:end] = model.norm(states)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_blocks_of_another_kind_are_refused() -> None:
    config = LlamaConfig(hidden_size=WIDTH, intermediate_size=48, num_attention_heads=4)
    with pytest.raises(UserError, match="Qwen2 kind; this one has LlamaDecoderLayer"):
        Layer(LlamaDecoderLayer(config, 0))


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 90)), max_size=8))
def test_rows_grow_and_shrink_like_a_list(steps: list[tuple[int, int]]) -> None:
    grown, listed, number = Grown(torch.empty(2, 0, 1)), [], 0
    for keep, more in steps:
        grown.crop(keep)
        listed = listed[:keep]
        fresh = list(range(number, number + more))
        number += more
        grown.append(torch.tensor(fresh, dtype=torch.float32)[None, :, None].expand(2, -1, 1))
        listed += fresh
        assert grown.rows[:, :, 0].tolist() == [listed, listed]
