"""The link model: by hand, by simulation, and against real bytes over shaped links."""

from __future__ import annotations

import random

import pytest

from eval.latency.link import Link, Packets
from tests.eval.link_namespaces import send_through_kernel, why_not
from tests.eval.link_proxy import HEADER_BYTES, send_through_proxy
from tofc.errors import ConfigError, UserError

SHAPED = Packets(payload=1200, header=HEADER_BYTES)


def test_times_by_hand() -> None:
    """3000 bytes are three packets of 1448: 3198 bytes with headers, 25.584 ms at 1 Mbit/s."""
    assert Packets().count(3000) == 3
    assert Packets().on_the_wire(3000) == 3198
    link = Link(mbit=1.0, round_trip=0.02)
    assert link.uplink(3000) == pytest.approx(0.025584)
    assert Link(mbit=10.0).uplink(3000) == pytest.approx(0.0025584)
    assert Packets().on_the_wire(1448) == 1448 + 66
    assert Packets().on_the_wire(1449) == 1449 + 2 * 66


def test_losses_by_hand() -> None:
    """One packet at loss 1/2 is sent twice in the mean; each round beyond the first is a round trip."""
    link = Link(mbit=1.0, round_trip=0.1, loss=0.5)
    assert link.expected_rounds(1) == pytest.approx(2.0)
    assert link.uplink(934) == pytest.approx(2 * 8e-6 * 1000 + 0.1)
    # Two packets: 1 + sum over k >= 1 of 1 - (1 - 2^-k)^2 = 1 + 2 - 1/3.
    assert link.expected_rounds(2) == pytest.approx(8 / 3)


@pytest.mark.parametrize("loss, packets", [(0.02, 40), (0.1, 3), (0.3, 200)])
def test_expected_rounds_and_packets_against_simulation(loss: float, packets: int) -> None:
    chance = random.Random(5)
    rounds = sent = 0
    trials = 3000
    for _ in range(trials):
        missing = packets
        while missing:
            rounds, sent = rounds + 1, sent + missing
            missing = sum(chance.random() < loss for _ in range(missing))
    link = Link(1.0, loss=loss)
    assert rounds / trials == pytest.approx(link.expected_rounds(packets), rel=0.03)
    assert sent / trials == pytest.approx(packets / (1 - loss), rel=0.02)


@pytest.mark.parametrize(
    "arguments, wrong",
    [
        ({"mbit": 0.0}, "0.0 Mbit/s"),
        ({"mbit": float("nan")}, "nan Mbit/s"),
        ({"mbit": 1.0, "round_trip": -0.1}, "-0.1 s round trip"),
        ({"mbit": 1.0, "loss": 1.0}, "loss is 1.0"),
    ],
)
def test_links_that_cannot_be(arguments: dict[str, float], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Link(**arguments)


def test_a_transfer_has_bytes() -> None:
    with pytest.raises(ValueError, match="0 bytes travel"):
        Link(1.0).uplink(0)


@pytest.mark.parametrize("round_trip, loss", [(0.0, 0.0), (0.1, 0.0), (0.06, 0.08)])
def test_real_bytes_through_the_proxy(round_trip: float, loss: float) -> None:
    """Never faster than the model of what was sent; slower by no more than a busy machine's scheduling."""
    link = Link(2.0, round_trip, loss, SHAPED)
    data = random.Random(0).randbytes(100_000)
    transfer = send_through_proxy(link, data, seed=1)
    assert transfer.modelled(link) <= transfer.seconds < 2 * transfer.modelled(link) + 0.5
    if not loss:
        assert transfer.rounds == 1
        assert transfer.modelled(link) == pytest.approx(link.uplink(100_000) + round_trip)
    else:
        assert transfer.rounds > 1
        assert transfer.wire_bytes > SHAPED.on_the_wire(100_000)


def test_the_proxy_knows_its_own_header() -> None:
    with pytest.raises(ValueError, match=f"header of {HEADER_BYTES} bytes"):
        send_through_proxy(Link(1.0), b"bytes")


def test_real_bytes_through_the_kernel() -> None:
    """tc's token bucket holds bytes back as the model says, but for the bucket and the last packet."""
    if fault := why_not():
        pytest.skip(fault)
    num_bytes = 60_000
    seconds = send_through_kernel(Link(1.0), num_bytes)
    modelled = Link(1.0).uplink(num_bytes)
    assert 0.9 * modelled < seconds < 2 * modelled + 0.5


def test_the_kernel_shapes_rates_alone() -> None:
    with pytest.raises(UserError, match="rates alone"):
        send_through_kernel(Link(1.0, round_trip=0.1), 1000)
