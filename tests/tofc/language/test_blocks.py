"""Blocks that are run a few positions at a time, for any sequences, give what transformers gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tofc.language.blocks import RowBuffer
from tofc.language.model import LanguageModel
from tofc.language.prompt import Prompt
from tofc.language.sequences import Sequences

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
MODELS = {
    "4 heads": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=4)),
    "4 for 2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=2)),
    "4 for 1": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=1)),
    "window": (
        Qwen2ForCausalLM, Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, **WINDOW),
    ),
    "another kind": (LlamaForCausalLM, LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)),
}  # fmt: skip


def made(name: str) -> Any:
    kind, config = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(50, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompt(tokens: list[int]) -> Prompt:
    return Prompt(torch.tensor(tokens), (), {})


def stock(model: Any, tokens: list[int]) -> torch.Tensor:
    """Logits [L, V] of one pass without a cache."""
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0]


@pytest.mark.parametrize("name", MODELS)
def test_blocks_agree_with_transformers_however_positions_come(name: str) -> None:
    stocked = made(name)
    model, tokens = LanguageModel(stocked), ids(90, 1)  # longer than the memory that is there at first
    wanted = stock(stocked, tokens)
    sequences = Sequences(model, [model.full], cuts=[1])
    sequences.extend([prompt(tokens[:40])])
    torch.testing.assert_close(sequences.logits("full", 40)[0], wanted[:40], atol=1e-5, rtol=1e-5)
    for start, end in [(40, 41), (41, 49), (44, 45), (45, 46), (46, 80), (80, 90)]:
        sequences.crop(start)
        sequences.append([tokens[start:end]])
        found = sequences.logits("full", end - start)[0]
        torch.testing.assert_close(found, wanted[start:end], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_sequences_of_any_length_are_what_each_is_alone(name: str) -> None:
    """They begin together, are cropped, joined by others, go on behind a common beginning, and leave."""
    stocked = made(name)
    model = LanguageModel(stocked)
    told = [ids(length, seed) for seed, length in enumerate((5, 17, 11))]

    def check(sequences: Sequences, rows: list[list[int]]) -> None:
        for found, row in zip(sequences.logits("full")[:, -1], rows, strict=True):
            torch.testing.assert_close(found, stock(stocked, row)[-1], atol=2e-5, rtol=1e-5)

    first = Sequences(model, [model.full], keep=False)
    first.extend([prompt(row) for row in told])
    check(first, told)
    first.append([[row[0]] for row in told])
    check(first, [row + row[:1] for row in told])
    beginning = first.part(1, first.length - 18, first.length - 4)  # of the second, 14 positions
    tails = [ids(3, 7), ids(6, 8)]
    second = Sequences.joined([beginning, beginning])
    second.extend([prompt(tail) for tail in tails])
    behind = [told[1][:14] + tail for tail in tails]
    check(second, behind)
    both, rows = Sequences.joined([first, second]), [*(row + row[:1] for row in told), *behind]
    for chosen in ([0, 1, 2, 3, 4], [3, 0, 4], [0, 2], [1]):
        both.select(chosen)
        rows = [rows[place] for place in chosen]
        both.append([[place] for place in range(len(rows))])
        rows = [[*row, place] for place, row in enumerate(rows)]
        check(both, rows)
    assert both.length == max(map(len, rows)), "padding that nobody needs is carried along"


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 90)), max_size=8))
def test_rows_grow_and_shrink_like_a_list(steps: list[tuple[int, int]]) -> None:
    buffer, listed, number = RowBuffer(torch.empty(2, 0, 1)), [], 0
    for keep, more in steps:
        buffer.crop(keep)
        listed = listed[:keep]
        fresh = list(range(number, number + more))
        number += more
        buffer.append(torch.tensor(fresh, dtype=torch.float32)[None, :, None].expand(2, -1, 1))
        listed += fresh
        assert buffer.rows(0)[:, :, 0].tolist() == [listed, listed]
