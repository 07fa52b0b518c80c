"""Table I of AI Flow (arXiv 2506.12479) in simulation: with its tiers' own speeds, and with counted ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import LlavaOnevisionConfig

from eval.drafting.config import CountedTiers, ModelShape, PublishedRates
from eval.drafting.simulate import TierCosts, random_says, simulate
from eval.latency.config import Rates
from eval.latency.count import Counts, Work
from tofc.drafting import Pace


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
