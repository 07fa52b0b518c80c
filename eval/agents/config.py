"""What a configuration of `tofc eval agents` says, and its rows."""

from __future__ import annotations

from dataclasses import dataclass

from eval.rate.data import SweepData
from tofc.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AgentsEvalConfig:
    """Agents on a benchmark: `agents` is a configuration of `tofc agents`, `limit` the number of pictures.

    `fit_data` has other pictures, of which `--fit` learns the selector from the first `fit_limit`.
    """

    name: str
    agents: str
    data: SweepData
    limit: int
    fit_data: SweepData | None = None
    fit_limit: int = 100

    def __post_init__(self) -> None:
        if self.limit < 2 or self.fit_limit < 1:
            raise ConfigError(
                f"limit is {self.limit}, fit_limit {self.fit_limit}: give at least 2 pictures, and 1 to fit"
            )
        if self.fit_data == self.data:
            raise ConfigError("fit_data is the data to be judged by: name another split")


@dataclass(frozen=True)
class AgentsRow:
    """What one system answered to one question: `right` of `of`; `fault` says why there is no answer."""

    picture: str
    question: int
    category: str
    system: str
    right: float
    of: float
    answer: str
    fault: str
