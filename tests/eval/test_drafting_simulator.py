"""The simulator of collaborative decoding against sums by hand."""

from __future__ import annotations

import pytest

from eval.drafting.expect import RecordedPace, verifier_costs
from eval.drafting.simulate import TierCosts, random_says, simulate
from tofc.drafting import Pace
from tofc.drafting.reader import StateRule
from tofc.drafting.rounds import Verdict

LENGTH = 40


def test_drafts_that_always_stand_cost_what_a_sum_says() -> None:
    says = [[0] * LENGTH, [0] * LENGTH]
    found = simulate(says, [TierCosts(0.01), TierCosts(0.02, 0.001, 0.1)], Pace(3))
    assert found.rounds == LENGTH // 4  # three drafts and one token of the verifier's own
    assert found.seconds == pytest.approx(found.rounds * (3 * 0.01 + 0.02 + 3 * 0.001 + 0.1))


def test_drafts_that_never_stand_cost_a_round_each() -> None:
    says = [[1] * LENGTH, [0] * LENGTH]
    found = simulate(says, [TierCosts(0.01), TierCosts(0.02, 0.0, 0.1)], Pace(2))
    assert (found.rounds, found.stood) == (LENGTH, 0)
    assert found.seconds == pytest.approx(LENGTH * (2 * 0.01 + 0.12) - 0.01)  # one draft before the last


def test_a_verifier_alone() -> None:
    says = [[1] * LENGTH, [0] * LENGTH]
    found = simulate(says, [TierCosts(0.01), TierCosts(0.02, 0.0, 0.1)], Pace(0, alone=10))
    assert found.seconds == pytest.approx(LENGTH * 0.02 + 4 * 0.1)


def test_tokens_written_one_after_another_have_a_cost_of_their_own() -> None:
    says = [[0] * LENGTH, [0] * LENGTH]
    costs = [TierCosts(0.01), TierCosts(0.05, 0.001, 0.1, alone=0.02)]
    assert simulate(says, costs, Pace(0, alone=10)).seconds == pytest.approx(LENGTH * 0.02 + 4 * 0.1)
    drafted = simulate(says, costs, Pace(3)).seconds
    assert drafted == pytest.approx(LENGTH // 4 * (3 * 0.01 + 0.05 + 3 * 0.001 + 0.1))


def test_what_the_device_does_besides_counts_once_a_round() -> None:
    says = [[0] * LENGTH, [0] * LENGTH]
    bare = simulate(says, [TierCosts(0.01), TierCosts(0.02)], Pace(3))
    more = simulate(says, [TierCosts(0.01, way=0.005), TierCosts(0.02)], Pace(3))
    assert more.seconds - bare.seconds == pytest.approx(0.005 * bare.rounds)


def test_tiers_that_share_a_core_wait_for_each_other() -> None:
    says = [[0] * 200, [0] * 200]
    costs = [TierCosts(0.01), TierCosts(0.05, 0.0, 0.0)]
    apart = simulate(says, costs, Pace(4), parallel=True).seconds
    shared = simulate(says, costs, Pace(4), parallel=True, cores=[0, 0])
    assert apart < 1.1 * 200 * 0.01
    assert shared.seconds == pytest.approx(shared.drafted * 0.01 + shared.rounds * 0.05)


def test_in_parallel_drafting_hides_behind_verifying() -> None:
    """Ten drafts while a round is under way: eleven positions a round, one of them the verifier's."""
    says = [[0] * 400, [0] * 400]
    costs = [TierCosts(0.01), TierCosts(0.05, 0.0, 0.05)]
    in_turn = simulate(says, costs, Pace(4)).seconds
    parallel = simulate(says, costs, Pace(4), parallel=True).seconds
    assert parallel == pytest.approx(400 * 0.01, rel=0.1)  # as fast as the drafter alone
    assert in_turn == pytest.approx(80 * 0.14)


def test_planned_drafts_never_lose_much_to_a_verifier_alone() -> None:
    """The policy stops where it does not pay, after what it took to find out."""
    for share in (0.0, 0.3, 0.6, 0.9):
        for draft in (0.005, 0.02, 0.03):
            says = random_says([share], 600)
            costs = [TierCosts(draft), TierCosts(0.02, 0.0, 0.01)]
            alone = simulate(says, costs, Pace(0)).seconds
            assert simulate(says, costs, Pace()).seconds < 1.1 * alone, (share, draft)


def test_three_tiers_give_the_top_ones_answer_faster_than_it_alone() -> None:
    says = random_says([0.9, 0.95], 300)
    costs = [TierCosts(0.005), TierCosts(0.02), TierCosts(0.1)]
    three = simulate(says, costs, Pace(4)).seconds
    assert three < 300 * 0.1
    assert random_says([0.9, 0.95], 300) == says


def test_tiers_differ_as_often_as_asked() -> None:
    below, middle, top = random_says([0.7, 0.9], 20_000)
    assert sum(a == b for a, b in zip(below, middle, strict=True)) / 20_000 == pytest.approx(0.7, abs=0.02)
    assert sum(a == b for a, b in zip(middle, top, strict=True)) / 20_000 == pytest.approx(0.9, abs=0.02)


def test_states_travel_in_simulation_where_they_pay() -> None:
    says = [[0] * 400, [0] * 400]
    for state, pays in ((0.001, True), (0.004, False)):
        costs = [TierCosts(0.01), TierCosts(0.04, 0.0, 0.02, shared=0.01, state=state)]
        found = {
            always: simulate(says, costs, Pace(4, states=StateRule(always))).seconds
            for always in (False, True, None)
        }
        rounds = 400 // 5
        assert found[False] == pytest.approx(rounds * 0.1)
        # Five states a round, and four in the first, which save the shared blocks.
        assert found[True] == pytest.approx(rounds * (0.1 - 0.01 + 5 * state) - state)
        assert found[None] == pytest.approx(min(found[False], found[True]), rel=0.03 if pays else 0.02)
        assert (found[True] < found[False]) is pays


def test_costs_tell_rounds_with_states_from_those_without() -> None:
    pace = RecordedPace(4)
    for carried in (False, True, False, True, False):
        verdict = Verdict(0, (), 0, False, 1, 0.004 - carried * 0.0015, 0.0 if carried else 0.0015)
        way = 0.001 + carried * 0.0005
        pace.heard(
            verdict, sent=4, stood=4, gained=5, elapsed=verdict.seconds + way, spent=0.01, carried=carried
        )
    costs = verifier_costs(pace)
    assert costs.shared == pytest.approx(0.0015)
    assert costs.state == pytest.approx(0.0001)
    assert costs.way == pytest.approx(0.001)
    assert costs.read(5) + costs.shared == pytest.approx(0.004)


@pytest.mark.parametrize("parallel", [False, True])
def test_planned_three_tiers_never_lose_much_to_the_top_one_alone(parallel: bool) -> None:
    """Nor where the tier in the middle ignores drafts, because its own do not pay."""
    costs = [TierCosts(0.0226), TierCosts(0.0312), TierCosts(0.0359)]
    for share in (0.0, 0.4, 0.6, 0.8):
        taken = simulate(random_says([share, share], 600), costs, Pace(parallel=parallel), parallel=parallel)
        assert taken.seconds < 1.06 * 600 * costs[-1].one, share


def test_planned_three_tiers_gain_where_they_can_even_if_two_of_them_share_a_core() -> None:
    """Passes of the bundled members on one core, in milliseconds; rounds take a millisecond besides."""
    device = TierCosts(0.65, 0.1, 0.3)
    middle = TierCosts(2.3, 0.1, 1.1, alone=1.6)
    cloud = TierCosts(3.2, 0.1, 1.1, alone=2.2)
    for cores, gain in (([0, 1, 2], 1.3), ([0, 0, 1], 1.1)):
        pace, above, seconds = Pace(parallel=True), Pace(parallel=True), 0.0
        for seed in range(9):
            says = random_says([0.95, 0.96], 47, seed)
            taken = simulate(says, [device, middle, cloud], pace, parallel=True, middle=above, cores=cores)
            seconds += taken.seconds
        assert 9 * (47 * 2.2 + 1.1) / seconds > gain, cores
