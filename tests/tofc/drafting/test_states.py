"""States of shared blocks that travel: taken where they fit, left aside where not, and no answer changes."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tofc
from tests.tofc.drafting.fakes import QUESTION, FlakyLink
from tofc.drafting.acceptance import rule_of
from tofc.drafting.drafter import Drafter
from tofc.drafting.pace import Pace
from tofc.drafting.reader import Reader, StateRule, StateSender, readers
from tofc.drafting.remote import drafter_tag, shared_tag, vocabulary_tag
from tofc.drafting.rounds import Exchange, MessageError, PartialAnswer, Round, checksum
from tofc.drafting.verifier import UpperTier, Verifier
from tofc.language.blocks import CachedBlock
from tofc.language.model import text_model
from tofc.language.prompt import Prompt
from tofc.language.sampling import Sampling

WIDTH = 192


@pytest.fixture(scope="module")
def prompt(edge: tofc.Edge, packets: list[tofc.Packet]) -> Prompt:
    return edge.prompt(packets[0], QUESTION)


@pytest.fixture
def rows(edge: tofc.Edge, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Positions that ran through the model's first block and through its last one."""
    run, found = CachedBlock.__call__, {"first": 0, "last": 0}
    layers = text_model(edge.model).layers
    watched = {id(layers[0]): "first", id(layers[len(layers) - 1]): "last"}

    def counted(self: Any, states: torch.Tensor, *more: Any) -> torch.Tensor:
        if (name := watched.get(id(self.block))) is not None:
            found[name] += len(states)
        return run(self, states, *more)

    monkeypatch.setattr(CachedBlock, "__call__", counted)
    return found


def reader(edge: tofc.Edge, prompt: Prompt, exit: str, cut: int = 0) -> Reader:
    """A reader that shares nothing with others, as in a process of its own."""
    return readers(edge.family, prompt, [exit], cut)[exit]


def about(tokens: list[int], begin: int, states: bytes) -> Round:
    """A round whose states are those of `tokens` from `begin` on."""
    return Round(len(tokens), checksum(tokens), 0, (), 1, begin, states)


def test_given_states_stand_in_for_the_shared_blocks(
    edge: tofc.Edge, prompt: Prompt, rows: dict[str, int]
) -> None:
    drafter, verifier = reader(edge, prompt, "e3"), reader(edge, prompt, "full", 3)
    whole = reader(edge, prompt, "full")
    tokens = [5, 9, 7, 11, 2]
    verifier([5]), whole([5])
    states = drafter.shared(3).states(tokens, 1)
    wanted = whole(tokens, 4)
    rows.update(first=0, last=0)
    shared = verifier.shared(3)
    shared.take(tokens, about(tokens, 1, states))
    torch.testing.assert_close(verifier(tokens, 4), wanted, atol=2e-4, rtol=1e-4)
    assert rows == {"first": 0, "last": 4}
    verifier([*tokens, 3])  # by itself: first the positions that lack keys and values, in the same pass
    assert rows == {"first": 5, "last": 5}
    torch.testing.assert_close(verifier([*tokens, 3, 4]), whole([*tokens, 3, 4]), atol=2e-4, rtol=1e-4)
    assert rows["first"] == 5 + 1 + 2  # the whole one's two


def test_whatever_states_come_logits_are_the_models_own(edge: tofc.Edge, prompt: Prompt) -> None:
    """Tokens come and go; states come for some of them, too early, too late, for others than are there."""
    for seed in range(6):
        chance = random.Random(seed)
        drafter, verifier = reader(edge, prompt, "e3"), reader(edge, prompt, "full", 3)
        whole, shared = reader(edge, prompt, "full"), verifier.shared(3)
        tokens: list[int] = []
        for _ in range(12):
            del tokens[chance.randint(0, len(tokens)) :]
            tokens += [chance.randrange(400) for _ in range(chance.randint(1, 5))]
            begin = chance.randrange(len(tokens))
            told = about(tokens, begin, drafter.shared(3).states(tokens, begin))
            if chance.random() < 0.7:
                shared.take(tokens[: chance.randint(begin, len(tokens))], told)
            last = chance.randint(1, len(tokens))
            torch.testing.assert_close(verifier(tokens, last), whole(tokens, last), atol=3e-4, rtol=1e-4)


def test_states_of_other_sizes_and_of_no_numbers_are_refused(edge: tofc.Edge, prompt: Prompt) -> None:
    shared = reader(edge, prompt, "full", 1).shared(1)
    good = torch.zeros(2, WIDTH)
    tokens = [4, 5]
    assert shared.parsed(about(tokens, 0, good.numpy().tobytes())).shape == (2, WIDTH)
    for size in (1, 2 * WIDTH, 2 * 4 * WIDTH - 1, 3 * 4 * WIDTH):
        with pytest.raises(MessageError, match=f"take {2 * 4 * WIDTH} bytes"):
            shared.take(tokens, about(tokens, 0, bytes(size)))
    for wrong in (float("nan"), float("inf"), -float("inf"), 1e30):
        bad = good.clone()
        bad[1, 7] = wrong
        with pytest.raises(MessageError, match="no number"):
            shared.take(tokens, about(tokens, 0, bad.numpy().tobytes()))


@pytest.mark.parametrize("tiers", [("e1-50", "full"), ("e3", "full"), ("e1", "e3"), ("e1-50", "e3", "full")])
def test_answers_over_bad_links_with_states_are_the_verifiers_own(
    edge: tofc.Edge, packets: list[tofc.Packet], prompt: Prompt, tiers: tuple[str, ...]
) -> None:
    most, cuts, carried = 16, 0, 0
    wanted = list(edge.answer(packets[0], QUESTION, exit=tiers[-1], max_new_tokens=most).tokens)
    depths = [edge.family.named(name).exit_layer for name in tiers]
    for seed in range(10):
        chance = random.Random(seed)
        rule = StateRule(True) if seed % 3 else Flipping(random.Random(seed + 99))
        links: list[FlakyLink] = []
        exchange: Exchange | None = None
        for level in range(len(tiers) - 1, 0, -1):
            read = reader(edge, prompt, tiers[level], depths[level - 1])
            above = None
            if exchange is not None:
                pack = StateSender(read.shared(depths[level]), lambda: True, rule)
                above = UpperTier(exchange, Pace(chance.choice([1, 3, 7])), pack=pack)
            shared = read.shared(depths[level - 1])
            check = Verifier(read, rule_of(Sampling()), edge.ends, most, above=above, shared=shared).check
            exchange = FlakyLink(check, chance, 0.2 + 0.5 * chance.random())
            links.append(exchange)
        assert exchange is not None
        answer, draft = PartialAnswer(edge.ends, most), reader(edge, prompt, tiers[0])
        pack = StateSender(draft.shared(depths[0]), lambda: True, rule)
        pace = Pace(chance.choice([1, 2, 5, 12]))
        counts = Drafter(draft, rule_of(Sampling()), exchange, pace, pack=pack, pause=0.0).run(answer)
        assert answer.tokens[: len(wanted)] == wanted, f"seed {seed}"
        assert answer.is_over
        cuts += counts.cuts
        carried += sum(link.carried for link in links)
    assert cuts > 10
    assert carried > 10 * most * 4 * WIDTH  # states did travel


class Flipping(StateRule):
    """States now and then."""

    def __init__(self, random: random.Random) -> None:
        super().__init__()
        self._random = random

    def goes(self, states: int) -> bool:
        return self._random.random() < 0.5


@given(st.integers(0, 999), st.lists(st.integers(0, 1 << 20), min_size=1, max_size=9), st.binary(min_size=1))
def test_rounds_with_states_travel(start: int, drafts: list[int], states: bytes) -> None:
    plain = Round(start, 5, 0, tuple(drafts), 2)
    round = replace(plain, begin=max(start - 1, 0), states=states)
    assert Round.from_bytes(bytes(round)) == round
    assert round.num_states == len(drafts) + (start > 0)
    with pytest.raises(MessageError, match="has none"):
        Round.from_bytes(bytes(round)[: -len(states)])
    with pytest.raises(MessageError, match="has none"):
        Round.from_bytes(bytes(replace(round, begin=start + len(drafts))))


@given(st.binary(max_size=60))
def test_what_is_no_round_is_refused_or_read(data: bytes) -> None:
    for message in (data, b"\x02" + data):
        try:
            round = Round.from_bytes(message)
        except MessageError:
            continue
        assert len(round.drafts) + len(round.states) <= len(message)


def test_a_carrier_leaves_rounds_as_they_are_where_states_cannot_go(edge: tofc.Edge, prompt: Prompt) -> None:
    shared, tokens = reader(edge, prompt, "e1").shared(1), [3, 4, 5, 6]
    round = Round(2, checksum([3, 4]), 2, (5, 6))
    sent = StateSender(shared, lambda: True, StateRule(True))(round, tokens)
    assert (sent.begin, len(sent.states)) == (1, 3 * 4 * WIDTH)
    assert replace(sent, begin=0, states=b"") == round
    assert StateSender(shared, lambda: False, StateRule(True))(round, tokens) is round
    assert StateSender(shared, lambda: True, StateRule(False))(round, tokens) is round
    alone = Round(4, checksum(tokens), 4, (), 16)  # the verifier is to write alone
    assert StateSender(shared, lambda: True, StateRule(True))(alone, tokens) is alone
    many = [3] * 200  # drafted while the link was down
    away = Round(0, checksum([]), 0, tuple(many))
    assert StateSender(shared, lambda: True, StateRule(True))(away, many) is away


def test_tags_tell_weights_and_depths_apart_and_are_made_once(
    edge: tofc.Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tofc.Edge.from_pretrained("scenes-tiny")  # the same main model
    shallow, deep = shared_tag(edge, 1), shared_tag(edge, 3)
    assert shallow != deep
    assert (shared_tag(other, 1), shared_tag(other, 3)) == (shallow, deep)
    assert vocabulary_tag(other) == vocabulary_tag(edge)
    changed = tofc.Edge.from_pretrained("scenes-tiny")
    with torch.no_grad():
        text_model(changed.model).layers[1].mlp.down_proj.weight[0, 0] += 1e-3
    assert shared_tag(changed, 1) == shallow
    assert shared_tag(changed, 3) != deep
    halved = tofc.Edge.from_pretrained("scenes-tiny", dtype=torch.bfloat16)
    assert shared_tag(halved, 1) != shallow
    assert len({drafter_tag(edge, exit) for exit in ("e1", "e1-50", "e3")}) == 3
    with monkeypatch.context() as patch:
        patch.setattr("tofc.drafting.remote.zlib.crc32", None)  # weights are not read again
        assert (shared_tag(edge, 1), shared_tag(edge, 3)) == (shallow, deep)


def rounds(rule: StateRule, num: int, cost: float, shared: float, noise: random.Random | None = None) -> str:
    """So many rounds; whether states went with each, as a row of + and -."""
    said = ""
    for _ in range(num):
        goes = rule.goes(5)
        off = 0.0 if noise is None else noise.gauss(0, shared / 3)
        rule.heard(goes, 0.02 + goes * cost + off, 0.0 if goes else shared)
        said += "+" if goes else "-"
    return said


def test_states_travel_where_they_take_less_time_than_they_save() -> None:
    rule = StateRule()
    first = rounds(rule, 12, cost=0.001, shared=0.002)
    assert first == "-----+++++++"  # tried after a few rounds, and it pays
    assert "+" not in rounds(StateRule(), 40, cost=0.003, shared=0.002)[10:]
    dear = rounds(StateRule(), 2000, cost=0.1, shared=0.002)
    assert dear.count("+") <= 8  # one round a try, ever more seldom
    assert dear[:7] == "-----+-"


def test_what_changes_is_noticed_both_ways() -> None:
    rule = StateRule()
    assert rounds(rule, 100, cost=0.001, shared=0.002).count("+") > 85
    assert rounds(rule, 400, cost=0.009, shared=0.002)[-40:] == "-" * 40
    assert "+" in rounds(rule, 600, cost=0.0005, shared=0.002)[-10:]


def test_noise_makes_nothing_go_to_and_fro() -> None:
    for seed in range(10):
        for cost in (0.0005, 0.002, 0.004):
            said = rounds(StateRule(), 3000, cost, 0.002, noise=random.Random(seed))
            assert sum(a != b for a, b in pairwise(said)) < 3000 / 40
            if cost != 0.002:
                share = said.count("+") / len(said)
                assert share > 0.85 if cost < 0.002 else share < 0.15


def test_a_forced_rule_learns_nothing_and_a_server_that_takes_none_changes_none() -> None:
    for always in (False, True):
        rule = StateRule(always)
        assert set(rounds(rule, 100, 0.1, 0.001)) == {"+" if always else "-"}
    rule = StateRule()
    for _ in range(200):
        rule.heard(False, 0.02, 0.0)
    assert rounds(rule, 100, 0.001, 0.002).count("+") > 50
