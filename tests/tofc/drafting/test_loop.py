"""The loop on tables: drafts that never, sometimes or always stand; two and three tiers; links that fail."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.tofc.drafting.fakes import ENDS, MOST, FlakyLink, Table, alone, drafter, verifier
from tests.tofc.drafting.test_acceptance import p_value
from tofc.drafting.acceptance import rule_of
from tofc.drafting.drafter import DraftCounts, Drafter
from tofc.drafting.pace import Pace
from tofc.drafting.reader import Read
from tofc.drafting.rounds import LinkDown, MessageError, PartialAnswer, Round, Verdict, checksum
from tofc.drafting.verifier import UpperTier, Verifier
from tofc.language.sampling import Sampling

KINDS = ("never", "sometimes", "always")


def check_of(table: Table, choice: Sampling | None = None, **more: object) -> Verifier:
    return Verifier(table, rule_of(choice or Sampling(), 1), ENDS, MOST, **more)  # type: ignore[arg-type]  # named settings


def decode(
    draft: Table, exchange: object, drafts: int | None = 4, **more: object
) -> tuple[PartialAnswer, DraftCounts]:
    answer = PartialAnswer(ENDS, MOST)
    runner = Drafter(draft, rule_of(Sampling()), exchange, Pace(drafts), pause=0.0, **more)  # type: ignore[arg-type]  # named settings
    return answer, runner.run(answer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drafts", [0, 1, 4, 9, None])
def test_the_answer_is_the_verifiers_own(kind: str, drafts: int | None) -> None:
    for seed in range(8):
        table = verifier(seed)
        answer, _ = decode(drafter(kind, table), check_of(table).check, drafts)
        assert answer.tokens == alone(table)
        assert answer.is_over


def test_drafts_that_always_stand_save_passes_and_those_that_never_do_cost_none() -> None:
    table = max((verifier(seed) for seed in range(9)), key=lambda table: len(alone(table)))
    length = len(alone(table))
    found = {}
    for kind in KINDS:
        checked = check_of(table)
        _, counts = decode(drafter(kind, table), checked.check)
        found[kind] = checked.passes
        assert counts.rounds == checked.passes
        assert counts.stood == {"never": 0, "always": counts.sent}.get(kind, counts.stood)
    assert found["always"] == -(-length // 5)  # four drafts and one of its own a pass
    assert found["never"] == length
    assert found["always"] < found["sometimes"] < found["never"]


def test_three_tiers_that_all_go_on_while_rounds_are_under_way() -> None:
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for seed in range(12):
            cloud = verifier(seed)
            edge = drafter("sometimes", cloud, seed)
            above = UpperTier(check_of(cloud).check, pool=second)
            answer, _ = decode(
                drafter("sometimes", edge, seed), check_of(edge, above=above).check, pool=first
            )
            assert answer.tokens == alone(cloud)
            assert answer.is_over


def test_what_a_verifier_writes_alone_tells_which_drafts_would_stand() -> None:
    """No draft but the first goes up, and yet the pace knows drafters apart."""
    shares = {}
    for kind in KINDS:
        pace = Pace()
        pace.way(1e6)  # so far away that the first round asks for the whole answer
        pace.drafted(1e-3)
        for seed in range(8):
            table, answer = verifier(seed), PartialAnswer(ENDS, MOST)
            Drafter(
                drafter(kind, table, seed), rule_of(Sampling()), check_of(table).check, pace, pause=0.0
            ).run(answer)
        shares[kind] = pace.share
    assert shares["never"] < shares["sometimes"] < shares["always"]
    assert shares["always"] > 0.9


def test_a_greedy_verifier_does_not_ask_what_the_drafter_thought() -> None:
    table = verifier(1)
    draft = drafter("sometimes", table)
    asked = Table(draft.logits)
    answer, _ = decode(draft, check_of(table, drafter=asked).check)
    assert answer.tokens == alone(table)
    assert asked.passes == 0


@pytest.mark.parametrize("top", KINDS)
@pytest.mark.parametrize("middle", KINDS)
def test_three_tiers(middle: str, top: str) -> None:
    for seed in range(4):
        cloud = verifier(seed)
        edge = drafter(top, cloud, seed)
        device = drafter(middle, edge, seed + 9)
        relay = check_of(edge, above=UpperTier(check_of(cloud).check, Pace(3)))
        answer, _ = decode(device, relay.check)
        assert answer.tokens == alone(cloud)
        assert answer.is_over


def test_drafting_goes_on_while_a_round_is_under_way() -> None:
    with ThreadPoolExecutor(1) as pool:
        for kind in KINDS:
            for seed in range(6):
                table = verifier(seed)
                answer, counts = decode(drafter(kind, table), check_of(table).check, pool=pool)
                assert answer.tokens == alone(table)
                assert counts.drafted >= counts.stood


@pytest.mark.parametrize("tiers", [2, 3])
def test_cuts_delays_and_duplicates_change_no_answer(tiers: int) -> None:
    troubles = cut = 0
    for seed in range(500):
        chance = random.Random(seed)
        top = verifier(seed)
        check = check_of(top).check
        if tiers == 3:
            above = FlakyLink(check, chance, chance.random() * 0.8)
            top_draft = drafter(chance.choice(KINDS), top, seed)
            pace = Pace(chance.choice([0, 1, 4, 9, None]))
            check = check_of(top_draft, above=UpperTier(above, pace)).check
        link = FlakyLink(check, chance, chance.random() * 0.8)
        answer, counts = decode(
            drafter(chance.choice(KINDS), top, seed + 5), link, chance.choice([0, 1, 4, 12])
        )
        assert answer.tokens == alone(top), f"seed {seed}"
        assert answer.is_over
        troubles += counts.cuts > 0
        cut += counts.cuts
    assert troubles > 250  # it was put to the test
    assert cut > 1000


def test_sampled_answers_survive_a_bad_link_unchanged_in_distribution() -> None:
    """The first token's shares, over links that repeat and lose rounds: each token is decided once."""
    table = verifier(2)
    choice = Sampling(1.0)
    counts = torch.zeros(12, dtype=torch.float64)
    draft = drafter("sometimes", table)
    for seed in range(1500):
        checked = Verifier(table, rule_of(Sampling(1.0, seed=seed), 1), ENDS, 2, drafter=draft)
        link = FlakyLink(checked.check, random.Random(seed), 0.5)
        answer = PartialAnswer(ENDS, 2)
        Drafter(draft, rule_of(Sampling(1.0, seed=seed), 0), link, Pace(2), pause=0.0).run(answer)
        counts[answer.tokens[0]] += 1
    assert p_value(counts, choice.shares(table([])[0])) > 0.01


def test_what_was_shown_as_final_never_changes() -> None:
    for seed in range(100):
        chance = random.Random(seed)
        cloud = verifier(seed)
        above = FlakyLink(check_of(cloud).check, chance, 0.4)
        relay = check_of(drafter("sometimes", cloud, seed), above=UpperTier(above, Pace(3)))
        shown: list[int] = []

        def look(answer: PartialAnswer, shown: list[int] = shown) -> None:
            assert answer.tokens[: len(shown)] == shown
            assert len(shown) <= answer.final <= answer.checked <= len(answer.tokens)
            shown[:] = answer.tokens[: answer.final]

        link = FlakyLink(relay.check, chance, 0.4)
        answer, _ = decode(drafter("sometimes", cloud, seed + 3), link, watch=look)
        assert shown == answer.tokens == alone(cloud)


def test_a_link_that_stays_down_leaves_the_drafters_own_answer_unverified() -> None:
    table = verifier(3)

    def down(_: Round) -> Verdict:
        raise LinkDown

    answer, counts = decode(table, down, patience=0.01)
    assert answer.tokens == alone(table)
    assert answer.has_ended
    assert (answer.final, counts.rounds) == (0, 0)


def test_a_link_that_returns_has_everything_verified() -> None:
    table = verifier(4)
    check = check_of(table).check
    tries = 0

    def returns(round: Round) -> Verdict:
        nonlocal tries
        tries += 1
        if 1 < tries < 8:
            raise LinkDown
        return check(round)

    answer, counts = decode(drafter("sometimes", table), returns)
    assert answer.tokens == alone(table)
    assert answer.is_over
    assert counts.cuts == 6


def test_tiers_above_from_which_nothing_comes_are_given_up() -> None:
    table = verifier(5)

    def down(_: Round) -> Verdict:
        raise LinkDown

    relay = check_of(table, above=UpperTier(down, Pace(3)))
    answer, _ = decode(drafter("sometimes", table), relay.check, patience=0.01)
    assert answer.tokens == alone(table)
    assert answer.final == 0
    assert answer.checked == len(answer.tokens)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_tier_in_the_middle_writes_on_by_itself_while_rounds_are_under_way(parallel: bool) -> None:
    """One round from below asks for the whole answer: the middle tier drafts it, the top one verifies."""
    with ThreadPoolExecutor(1) as pool:
        for seed in range(8):
            cloud = verifier(seed)
            top = check_of(cloud)
            above = UpperTier(top.check, Pace(3, parallel=parallel), pool if parallel else None)
            middle = check_of(drafter("always", cloud), above=above)
            verdict = middle.check(Round(0, checksum([]), 0, (), MOST))
            assert list(verdict.tokens) == alone(cloud)
            assert verdict.is_over
            assert top.passes <= len(alone(cloud)) // 3 + 2


@pytest.mark.parametrize("parallel", [False, True])
def test_a_tier_below_waits_for_one_lost_round_at_most(parallel: bool) -> None:
    lost = 0

    def down(_: Round) -> Verdict:
        nonlocal lost
        lost += 1
        raise LinkDown

    with ThreadPoolExecutor(1) as pool:
        above = UpperTier(down, Pace(3, parallel=parallel), pool if parallel else None)
        relay = check_of(verifier(1), above=above)
        for number in range(1, 4):
            verdict = relay.check(Round(0, checksum([]), 0, (), 16))
            assert verdict.final == 0
            assert lost <= number
    assert lost == 3 or (parallel and lost)


def test_a_tier_in_the_middle_learns_what_its_tokens_cost() -> None:
    """The time of the tiers below it counts, and not that of waiting for the one above."""
    clock = 0.0

    def pass_of(seconds: float, of: Table) -> Read:
        def read(tokens: Sequence[int], last: int = 1) -> Tensor:
            nonlocal clock
            clock += seconds
            return of(tokens, last)

        return read

    cloud, pace = verifier(7), Pace(2)
    seen: list[float] = []
    drafted = pace.drafted
    pace.drafted = lambda seconds: (seen.append(seconds), drafted(seconds))[1]  # type: ignore[method-assign]  # here alone
    top = Verifier(pass_of(5.0, cloud), rule_of(Sampling()), ENDS, MOST, now=lambda: clock)
    above = UpperTier(top.check, pace, now=lambda: clock)
    small = drafter("always", cloud)
    middle = Verifier(pass_of(2.0, small), rule_of(Sampling()), ENDS, MOST, above=above, now=lambda: clock)
    device = Drafter(pass_of(1.0, small), rule_of(Sampling()), middle.check, Pace(1), now=lambda: clock)
    answer = PartialAnswer(ENDS, MOST)
    device.run(answer)
    assert answer.tokens == alone(cloud)
    # Two tokens a round from below: a draft of 1 s and a pass of 2 s.
    assert seen[1:-1] == [1.5] * len(seen[1:-1])
    assert len(seen) > 4


def test_a_verifier_goes_on_from_another_ones_answer() -> None:
    table = verifier(6)
    whole = alone(table)
    checked = check_of(table, tokens=tuple(whole[:3]))
    answer = PartialAnswer(ENDS, MOST, whole[:3], 3, 3)
    Drafter(drafter("sometimes", table), rule_of(Sampling()), checked.check, Pace(3)).run(answer)
    assert answer.tokens == whole


@given(
    st.integers(0, 1 << 20),
    st.integers(0, (1 << 32) - 1),
    st.lists(st.integers(0, 1 << 20), max_size=40),
    st.integers(0, 99),
)
def test_rounds_and_verdicts_travel(place: int, prefix: int, tokens: list[int], own: int) -> None:
    round = Round(place, prefix, max(0, place - 3), tuple(tokens), own)
    assert Round.from_bytes(bytes(round)) == round
    verdict = Verdict(place, tuple(tokens), place + len(tokens), bool(own % 2), own, 0.001234, 0.0005)
    assert Verdict.from_bytes(bytes(verdict)) == verdict


def test_a_round_of_four_drafts_takes_few_bytes() -> None:
    assert len(bytes(Round(30, checksum([1, 2]), 30, (400, 17, 300, 5), 1))) == 15
    assert len(bytes(Verdict(30, (400, 17, 300, 5, 6), 35, False, 1, 0.004))) <= 17


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x01" + bytes(9), b"\x02" + bytes(4) + b"\xff" * 12])
def test_other_bytes_are_refused(data: bytes) -> None:
    for kind in (Round, Verdict):
        with pytest.raises(MessageError):
            kind.from_bytes(data)


def test_a_cut_message_is_refused() -> None:
    data = bytes(Round(3, checksum([1]), 3, (5, 6, 700)))
    for size in range(len(data)):
        with pytest.raises(MessageError):
            Round.from_bytes(data[:size])
