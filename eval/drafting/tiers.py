"""The tiers of a drafting run: what its YAML file says, and what tiers take that are not here.

Table I of AI Flow (arXiv 2506.12479) in simulation: with its tiers' own speeds, and with counted ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import LlavaOnevisionConfig

from eval.drafting.simulate import TierCosts, random_says, simulate
from eval.latency.config import Rates
from eval.latency.count import Counts, Work
from eval.scenes.layout import SPLITS
from tofc.drafting import Pace
from tofc.errors import ConfigError


@dataclass(frozen=True)
class ModelShape:
    """A language model of the Qwen2 kind, by its sizes."""

    name: str
    width: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = False


@dataclass(frozen=True)
class PublishedRates:
    """Tokens a second that the paper's table I gives for a benchmark: each tier alone, two tiers, three."""

    benchmark: str
    device: float
    edge: float
    cloud: float
    two: float
    three: float


@dataclass(frozen=True)
class CountedTiers:
    """Large shapes, the smallest first, on an accelerator with `rates`, `context` tokens into an answer."""

    shapes: tuple[ModelShape, ...]
    rates: Rates
    context: int = 2048

    def __post_init__(self) -> None:
        if len(self.shapes) != 3:
            raise ConfigError(f"{len(self.shapes)} shapes; give those of device, edge and cloud")


@dataclass(frozen=True)
class DraftingConfig:
    """Tiers, what they are asked, and the links between them.

    model: a checkpoint with a family; draft: its member on the device where there are two tiers; three: those
    on the device and on the edge where there are three (left out: there are not). pictures: of `split` of the
    scenes. round_trips_ms and mbit: of each link; at 0 ms tiers are connected as they are. cores: the
    processor core of device, edge and cloud; the last serves for those that are left, and with two tiers for
    the verifier.
    simulated_tokens: of the answers that are simulated at `shares` of standing drafts.
    """

    name: str
    draft: str
    model: str = "scenes-tiny"
    three: tuple[str, ...] = ()
    prompt: str = "Describe the picture."
    pictures: int = 8
    split: str = "test"
    max_new_tokens: int = 80
    round_trips_ms: tuple[float, ...] = (0.0, 20.0, 100.0)
    mbit: float = 20.0
    cores: tuple[int, ...] = (0, 1)
    shares: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 0.95)
    simulated_tokens: int = 2000
    published: tuple[PublishedRates, ...] = ()
    counted: CountedTiers | None = None

    def __post_init__(self) -> None:
        if len(self.three) not in (0, 2):
            raise ConfigError(f"three is {list(self.three)}; give the members of device and edge, or neither")
        if self.pictures < 1 or self.max_new_tokens < 1 or self.simulated_tokens < 1:
            raise ConfigError("pictures, max_new_tokens and simulated_tokens are numbers of at least 1")
        if not self.round_trips_ms or min(self.round_trips_ms) < 0 or not self.mbit > 0:
            raise ConfigError(
                f"links have {list(self.round_trips_ms)} ms and {self.mbit} Mbit/s; give round trips of at "
                "least 0 and a rate above 0"
            )
        if self.split not in SPLITS:
            raise ConfigError(f"split is {self.split!r}; give one of {', '.join(SPLITS)}")
        if not self.cores or min(self.cores) < 0:
            raise ConfigError(f"cores is {list(self.cores)}; give the numbers of processor cores")
        if not all(0 <= share < 1 for share in self.shares):
            raise ConfigError(f"shares is {list(self.shares)}; give shares from 0 up to below 1")


def of_published(published: PublishedRates, shares: Sequence[float], tokens: int) -> Iterator[dict[str, Any]]:
    """Two and three tiers that take, for a pass, what the table's tiers take for a token."""
    costs = [TierCosts(1 / rate) for rate in (published.device, published.edge, published.cloud)]
    paper = {"two": published.two / published.edge, "three": published.three / published.cloud}
    for row in _rows(costs, shares, tokens):
        yield {"benchmark": published.benchmark, **row, "paper": paper[row["tiers"]]}


def of_counted(counted: CountedTiers, shares: Sequence[float], tokens: int) -> Iterator[dict[str, Any]]:
    """The same with passes by operations and bytes."""
    costs = [pass_costs(shape, counted.rates, counted.context) for shape in counted.shapes]
    for row in _rows(costs, shares, tokens):
        yield {"alone": [1 / cost.one for cost in costs], **row}


def pass_costs(shape: ModelShape, rates: Rates, context: int) -> TierCosts:
    """One token behind `context` others, and what each further one in the same pass adds."""
    one = counts_of(shape).next_token(context)
    many = 64  # weights, keys and values are read once for all
    seconds = [Work(n * one.flops, one.read).timing(rates).seconds for n in (1, many)]
    return TierCosts(seconds[0], (seconds[1] - seconds[0]) / (many - 1))


def counts_of(shape: ModelShape) -> Counts:
    """Operations and bytes of a language model of these sizes."""
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "num_hidden_layers": 1},  # not asked for
        text_config={
            "model_type": "qwen2",
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "intermediate_size": shape.intermediate,
            "vocab_size": shape.vocabulary,
            "tie_word_embeddings": shape.tied,
        },
    )
    return Counts(config)


def _rows(costs: Sequence[TierCosts], shares: Sequence[float], tokens: int) -> Iterator[dict[str, Any]]:
    for tiers, used in (("two", costs[:2]), ("three", costs)):
        for share in shares:
            says = random_says([share] * (len(used) - 1), tokens)
            alone = tokens * used[-1].one
            for parallel in (False, True):
                pace = Pace(parallel=parallel)
                taken = simulate(says, used, pace, parallel=parallel)
                yield {
                    "tiers": tiers,
                    "share": share,
                    "parallel": parallel,
                    "ratio": alone / taken.seconds,
                    "tokens_per_second": tokens / taken.seconds,
                    "rounds": taken.rounds,
                }
