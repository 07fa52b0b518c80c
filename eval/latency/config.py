"""What a latency run's YAML file says: models, systems, the two machines, and the link between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from eval.asking.answering import SweepData
from eval.latency.link import Link, Packets
from tofc.config import QUALITIES, TILINGS
from tofc.errors import ConfigError

ALL = "all"
LOWEST_RATE, HIGHEST_RATE = 0.1, 100.0  # Mbit/s


@dataclass(frozen=True)
class Rates:
    """What an accelerator achieves: its published peaks, and the shares of them that large models reach.

    tflops: dense operations a second in 16 bits, in 10^12; float64_tflops: in float64, in which merging
    computes on accelerators; gigabytes: memory bandwidth in 10^9 bytes a second. utilisation and
    bandwidth_utilisation: above 0 up to 1.
    """

    tflops: float
    float64_tflops: float
    utilisation: float
    gigabytes: float
    bandwidth_utilisation: float

    def __post_init__(self) -> None:
        for name in ("tflops", "float64_tflops", "gigabytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a rate above 0")
        for name in ("utilisation", "bandwidth_utilisation"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a share above 0 up to 1")


@dataclass(frozen=True)
class Machine:
    """One end of the link.

    networks: where the neural networks run: "cpu" (measured here), "paper" (counted with `rates`), or "cuda"
    (measured on the GPU that is here, else counted with `rates`). Pictures and entropy coding are always
    handled by a processor and measured on one core of what is here, times `processor_factor`. merging:
    whether tokens are merged where the networks run, as `Device.encode` does, or by the processor, as
    `Device.merge` does with features from `Device.features`.
    """

    name: str
    networks: Literal["cpu", "cuda", "paper"] = "cpu"
    merging: Literal["networks", "processor"] = "networks"
    processor_factor: float = 1.0
    rates: Rates | None = None

    def __post_init__(self) -> None:
        if not self.processor_factor > 0:
            raise ConfigError(f"processor_factor is {self.processor_factor}; give a factor above 0")
        if self.networks != "cpu" and self.rates is None:
            raise ConfigError(f"networks of {self.name} run on {self.networks}; give rates to count with")


@dataclass(frozen=True)
class LinkConfig:
    """Rates in Mbit/s, ascending; round trip in ms; loss as a share of packets."""

    mbit: tuple[float, ...]
    round_trip_ms: float = 20.0
    loss: float = 0.0
    packets: Packets = field(default_factory=Packets)

    def __post_init__(self) -> None:
        if not self.mbit or list(self.mbit) != sorted(set(self.mbit)):
            raise ConfigError(f"mbit is {list(self.mbit)}; give rates, ascending")
        if self.mbit[0] < LOWEST_RATE or self.mbit[-1] > HIGHEST_RATE:
            raise ConfigError(f"mbit is {list(self.mbit)}; give {LOWEST_RATE:g} to {HIGHEST_RATE:g} Mbit/s")
        self.links()

    def links(self) -> list[Link]:
        """A link for each rate."""
        return [Link(mbit, self.round_trip_ms / 1e3, self.loss, self.packets) for mbit in self.mbit]


@dataclass(frozen=True)
class ModelConfig:
    """A model by its checkpoint (own weights), or by a training recipe (random weights in its base's shape).

    checkpoint: a bundled name, a folder or a hub id. recipe: a configuration of `tofc train`, whose base,
    codec and merging are taken; the codec being untrained, packets are as long as those of the checkpoint
    `bytes_of` at the same quality and tokens, times the ratio of widths.
    """

    name: str
    checkpoint: str | None = None
    recipe: str | None = None
    bytes_of: str | None = None

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.recipe is None):
            raise ConfigError(f"model {self.name}: give either a checkpoint or a recipe")
        if (self.recipe is None) != (self.bytes_of is None):
            raise ConfigError(f"model {self.name}: bytes_of goes with a recipe, whose codec is untrained")


@dataclass(frozen=True)
class SystemConfig:
    """What travels and who computes.

    kind "tofc": packets of `quality` and `tokens`; "features": uncoded float16 features; "jpeg" and "webp":
    the picture, coded at `quality`, on which the server runs the vision tower. tokens: what the language
    model sees of a picture, a number merged to or "all". tiling: "anyres" (the stock tiles) or "base" (one).
    """

    name: str
    kind: Literal["tofc", "features", "jpeg", "webp"]
    quality: int | None = None
    tokens: int | str = ALL
    tiling: str = "anyres"

    def __post_init__(self) -> None:
        if self.tokens != ALL and (not isinstance(self.tokens, int) or self.tokens < 1):
            raise ConfigError(f'{self.name}: tokens is {self.tokens!r}; give at least 1, or "{ALL}"')
        if self.tiling not in TILINGS:
            raise ConfigError(f"{self.name}: tiling is {self.tiling!r}; choose from {', '.join(TILINGS)}")
        lowest, highest = {"tofc": (QUALITIES[0], QUALITIES[-1]), "jpeg": (1, 95), "webp": (0, 100)}.get(
            self.kind, (None, None)
        )
        if lowest is None or highest is None:
            if self.quality is not None:
                raise ConfigError(f"{self.name}: features are not coded; leave out quality")
        elif self.quality is None or not lowest <= self.quality <= highest:
            raise ConfigError(
                f"{self.name}: quality is {self.quality}; {self.kind} takes {lowest} to {highest}"
            )


@dataclass(frozen=True)
class LatencyConfig:
    """A run. `reference` names the system with which times to the first token are compared.

    pictures: "scenes" (of the test split), "photographs" (two that scikit-learn ships), or a folder; the
    first `limit` of them. data: a data set instead, whose questions are asked about its pictures, with
    answers as long as the model's (of a recipe, whose weights are random: as the true ones). Else the answer
    has `answer_tokens` tokens. The prompt is `question` in the chat template, of a recipe `text_tokens`
    tokens. What is measured is the median of `repeats` runs after `warm_up` more. `figure_mbit` are the rates
    that the figure shows.
    """

    name: str
    models: tuple[ModelConfig, ...]
    systems: tuple[SystemConfig, ...]
    reference: str
    device: Machine
    server: Machine
    link: LinkConfig
    figure_mbit: tuple[float, ...]
    pictures: str = "photographs"
    data: SweepData | None = None
    limit: int = 4
    question: str = "How many cars are there?"
    text_tokens: int = 64
    answer_tokens: int = 20
    repeats: int = 9
    warm_up: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("limit", 1),
            ("text_tokens", 1),
            ("answer_tokens", 2),
            ("repeats", 1),
            ("warm_up", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least {least}")
        for what in ("models", "systems"):
            names = [entry.name for entry in getattr(self, what)]
            if not names or len(names) != len(set(names)):
                raise ConfigError(
                    f"{what} are called {names}; give at least one, each with a name of its own"
                )
        if self.reference not in (names := [system.name for system in self.systems]):
            raise ConfigError(f"reference is {self.reference!r}; choose from {', '.join(names)}")
        if not self.figure_mbit or not set(self.figure_mbit) <= set(self.link.mbit):
            raise ConfigError(f"figure_mbit is {list(self.figure_mbit)}; choose from {list(self.link.mbit)}")
