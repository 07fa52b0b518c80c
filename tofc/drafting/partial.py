"""An answer of which a tier has a part, while a higher one decides about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tofc.drafting.reader import common
from tofc.drafting.rounds import Round, Verdict, checksum

Exchange = Callable[[Round], Verdict]
Pack = Callable[[Round, Sequence[int]], Round]  # a round about the last of these tokens, with what goes along


class LinkDown(ConnectionError):
    """A round of which nothing was heard; it may be sent again at any time."""


class LinkOver(LinkDown):
    """There is no time left for another round."""


def bare(round: Round, tokens: Sequence[int]) -> Round:
    """Nothing goes along."""
    return round


@dataclass
class PartialAnswer:
    """Tokens in three states: the first `final` stand for good, those up to `checked` stand as far as the
    tier above can tell, the rest are this tier's own drafts.

    An answer ends behind a token of `ends`, or at `most` tokens.
    """

    ends: frozenset[int]
    most: int
    tokens: list[int] = field(default_factory=list)
    final: int = 0
    checked: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing may follow the tokens as they are."""
        return len(self.tokens) >= self.most or bool(self.tokens and self.tokens[-1] in self.ends)

    @property
    def end(self) -> int:
        """Tokens before the first that ends it."""
        return next((i for i, token in enumerate(self.tokens) if token in self.ends), len(self.tokens))

    @property
    def is_over(self) -> bool:
        """Whether all of it stands."""
        return self.has_ended and self.final == len(self.tokens)

    def append(self, token: int) -> None:
        """One more draft."""
        self.tokens.append(token)

    def round(self, own: int = 1) -> Round:
        """All drafts, for the tier above."""
        checked = self.checked
        prefix = checksum(self.tokens[:checked])
        return Round(checked, prefix, self.final, tuple(self.tokens[checked:]), own)

    def take(self, verdict: Verdict) -> int:
        """Puts what the tier above says in the place of the drafts that it contradicts.

        Gives the number of drafts that stood. Drafts beyond the verdict stay where they go on from it. A
        verdict that is older than what is known changes nothing.
        """
        if verdict.since > self.final or verdict.final < self.final:
            return 0
        said = [*self.tokens[: verdict.since], *verdict.tokens]
        if len(said) < self.final or verdict.final > len(said):
            return 0
        same = common(self.tokens, said)
        stood = max(0, same - self.checked)
        if same < len(said):  # it goes on in another way, or further
            self.tokens = said
        self.final, self.checked = verdict.final, len(said)
        return stood
