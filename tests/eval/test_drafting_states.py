"""When states should travel with drafts, on hand-made numbers and on a clock that counts blocks."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from PIL import Image

import tofc
from eval.drafting.equality import grow_apart
from eval.drafting.states import Pass, counted, timed
from eval.drafting.tiers import CountedTiers, DraftingConfig, ModelShape
from eval.latency.config import Rates
from eval.scenes.world import make_scene
from tests.eval.commands import evaluate
from tofc.config import load_yaml
from tofc.drafting.rounds import PartialAnswer
from tofc.errors import ConfigError
from tofc.language.blocks import CachedBlock
from tofc.language.prompt import Prompt


def test_the_rate_at_which_states_take_as_long_as_they_save() -> None:
    """Five states of 768 bytes fill two packets more than the 21 bytes that travel anyway."""
    one = Pass("full", "e2", 2, 4, all_seconds=0.005, own_seconds=0.003, state_bytes=768)
    assert one.wire_bytes == 5 * 768 + 2 * 66
    assert one.pays_above_mbit == pytest.approx(8 * 3972 / 0.002 / 1e6)
    slower = Pass("full", "e2", 2, 4, all_seconds=0.003, own_seconds=0.003, state_bytes=768)
    assert slower.pays_above_mbit is None
    assert one.row()["pays_above_mbit"] == one.pays_above_mbit


def test_of_large_shapes_half_the_blocks_need_not_be_read() -> None:
    """A block of width 8: 4 * 64 weights of attention and 24 of biases, 3 * 128 of the rest, 16 of norms."""
    block = 4 * 64 + 24 + 3 * 128 + 16
    shape = ModelShape("tiny", 8, 4, 1, 1, 16, 32)
    rates = Rates(1e9, 1.0, 1.0, 1e-9, 1.0)  # a byte a second, and operations for nothing
    found = list(counted(CountedTiers((shape, shape, shape), rates, context=5)))
    assert len(found) == 9
    for one in found:
        assert one.shared == 2
        assert one.saved_seconds == pytest.approx(2 * 2 * (block + 2 * 5 * 8))  # keys and values, too
        assert one.state_bytes == 16


@pytest.fixture(scope="module")
def bundled() -> tofc.Edge:
    return tofc.Edge.from_pretrained("scenes-tiny")


def test_passes_are_timed_over_the_blocks_that_they_run(
    bundled: tofc.Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CachedBlock.__call__
    rows = 0

    def ticking(self: CachedBlock, states: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        nonlocal rows
        rows += len(states)
        return run(self, states, *rest)

    monkeypatch.setattr(CachedBlock, "__call__", ticking)
    edge = bundled
    prompt = Prompt.build(edge.tokenizer, edge.template, edge.model.config, "Describe the picture.", [])
    pairs = [("e2-50", "full"), ("e2-50", "e2"), ("e1", "e3")]
    found = timed(edge.family, prompt, list(range(5, 30)), pairs, 1, now=lambda: float(rows))
    blocks = [(6, 4, 2), (3, 1, 2), (4, 3, 1)]  # all, the verifier's own, shared
    for one, ((whole, own, shared), drafts) in zip(found, product(blocks, (1, 4, 8)), strict=True):
        assert (one.drafts, one.shared, one.state_bytes) == (drafts, shared, 768)
        assert one.all_seconds == whole * (drafts + 1)
        assert one.own_seconds == own * (drafts + 1)


def test_mistakes_are_told() -> None:
    code, _, said = evaluate("drafting", "states", "--config", "no-such")
    assert code == 2
    assert "no-such" in said
    assert evaluate("drafting", "states", "--repeats", 0)[0] == 2
    code, _, said = evaluate("decoding", "no-such")  # what `drafting measure` was called
    assert code == 2
    assert "no-such" in said


def test_tiers_apart_answer_as_the_last_one_alone(bundled: tofc.Edge) -> None:
    """Nothing is shared, and what travels does so as bytes, states and all."""
    packet = tofc.Device.from_pretrained("scenes-tiny").encode(
        Image.fromarray(make_scene("validation", 3)[1])
    )
    question = "Describe the picture."
    alone = list(bundled.answer(packet, question, max_new_tokens=24).tokens)
    prompt = bundled.prompt(packet, question)
    for tiers, drafts in ((("e2-50", "full"), 4), (("e1", "e2", "full"), 3)):
        answer = PartialAnswer(bundled.ends, 24)
        counts = grow_apart(answer, bundled.family, prompt, tiers, drafts)
        assert answer.tokens[: len(alone)] == alone
        assert counts.num_bytes > 768 * counts.sent  # a state of 192 numbers for each draft


def test_three_tiers_take_two_members_below_the_full_one() -> None:
    assert load_yaml("decoding-scenes", DraftingConfig).three
    with pytest.raises(ConfigError, match="members of device and edge"):
        DraftingConfig("x", "e1", three=("e1",))
