"""Members that read a prompt and tokens, and share the blocks that they have in common.

Their first blocks run once for each position, whichever member asks first: a verifier goes on from the
drafter's states, with its own keys and values alone. Between machines it can be given these states
(`SharedBlocks`). They travel with drafts where the link takes less time for them than they save the verifier:
where w1 - w0 < s, with w1 and w0 what rounds with and without states have taken beyond the verifier's own
seconds, and s what the shared blocks took it in rounds without, medians of the last ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from tofc.drafting.rounds import MessageError, Round, common
from tofc.familial.views import Family
from tofc.language.prompt import Prompt
from tofc.language.sequences import Sequences

_LARGEST = 1e6  # of any number in a state; those of large models reach some ten thousands


class Read(Protocol):
    """A model that has read a prompt: logits [last, V] of what follows `tokens`.

    The last row follows all of them, the row before it all but one, and so on. Calls may go back: what was
    computed for tokens that are no longer there is dropped.
    """

    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]."""


class SharedPrompt:
    """A prompt, and the tokens that members of a family have read behind it."""

    def __init__(self, sequences: Sequences, prompt: Prompt) -> None:
        self.sequences, self.length = sequences, prompt.length
        sequences.extend([prompt])
        self._tokens: list[int] = []

    def follow(self, tokens: Sequence[int]) -> int:
        """Makes `tokens` what follows the prompt, and gives the number of positions in all."""
        same = common(self._tokens, tokens)
        if same < len(self._tokens):
            del self._tokens[same:]
            self.sequences.crop(self.length + same)
        if fresh := list(tokens[same:]):
            self.sequences.append([fresh])
            self._tokens += fresh
        return self.sequences.length


class Reader:
    """One member on a prompt that others may read too."""

    def __init__(self, prompt: SharedPrompt, exit: str) -> None:
        self._prompt, self._exit = prompt, exit

    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]; see `Read`."""
        self._prompt.follow(tokens)
        return self._prompt.sequences.logits(self._exit, last)[0]

    def shared(self, depth: int) -> SharedBlocks:
        """Its first `depth` blocks: as many as one of the members that were read together has before its
        branch, or as were to be cut off."""
        return SharedBlocks(self._prompt, depth)


class SharedBlocks:
    """The first blocks of a reader, as far as another machine has them as well: their states may travel."""

    def __init__(self, prompt: SharedPrompt, depth: int) -> None:
        self._prompt, self._stack = prompt, prompt.sequences.stack(depth)

    @torch.inference_mode()
    def run(self, tokens: Sequence[int]) -> None:
        """Computes the states that are not there yet, and waits for them."""
        end = self._prompt.follow(tokens)
        self._stack.states(end - 1, end)[0, 0, 0].item()

    @torch.inference_mode()
    def states(self, tokens: Sequence[int], begin: int) -> bytes:
        """The states of `tokens` from position `begin` of the answer on, as they travel."""
        end = self._prompt.follow(tokens)
        states = self._stack.states(self._prompt.length + begin, end)[0]
        return states.cpu().contiguous().view(torch.uint8).numpy().tobytes()

    @torch.inference_mode()
    def take(self, tokens: Sequence[int], round: Round) -> None:
        """Takes the states that came with a round in place of computing them, as far as they belong to
        `tokens` and go on from what is there. Raises MessageError as `parsed` does."""
        states = self.parsed(round)[: max(0, len(tokens) - round.begin)]
        self._prompt.follow(tokens)
        self._stack.give(states[None], self._prompt.length + round.begin)

    def parsed(self, round: Round) -> Tensor:
        """The states [n, D] of a round; MessageError where they are none of this model."""
        like = self._prompt.sequences.embeddings(0, 0)[0]
        size = round.num_states * like.shape[-1] * like.dtype.itemsize
        if len(round.states) != size:
            raise MessageError(
                f"the states of {round.num_states} tokens take {size} bytes here, not {len(round.states)}"
            )
        states = torch.frombuffer(bytearray(round.states), dtype=like.dtype).view(-1, like.shape[-1])
        if not states.abs().max() <= _LARGEST:  # nor where one is no number
            raise MessageError(f"states hold something that is no number up to {_LARGEST:g}")
        return states.to(like.device)


def readers(family: Family, prompt: Prompt, exits: Iterable[str], cut: int = 0) -> dict[str, Reader]:
    """A reader for each exit of one family; the blocks that they share run once.

    cut: first blocks that are shared with a machine elsewhere, see `Reader.shared`. UserError for an exit
    that is not there.
    """
    found = {name: family.exit(name) for name in exits}
    sequences = Sequences(family.language, list(found.values()), cuts=[cut])
    shared = SharedPrompt(sequences, prompt)
    return {name: Reader(shared, exit.name) for name, exit in found.items()}


_FIRST_REST, _SHORT_REST, _LONG_REST = 5, 32, 512  # rounds before the other way is tried (once more)
_TRY = 5  # rounds that a try takes, the first of which does not count
_MARGIN = 0.1  # of what the shared blocks take: by so much the other way has to be better
_DEAR = 4.0  # times what they take: a try that costs more ends at once
_LATEST = 9  # rounds that count
_MOST_STATES = 64  # in a round: what was drafted while a link was down goes up without


@dataclass
class StateRule:
    """Follows what rounds with states and without them cost, and says how the next one goes.

    always: True or False in place of the rule.
    """

    always: bool | None = None
    _pays: bool = False  # as far as is known
    _tries: bool = False  # the other way, at the moment
    _rounds: int = 0  # since the way last changed
    _rest: int = _FIRST_REST
    _ways: dict[bool, deque[float]] = field(
        default_factory=lambda: {way: deque(maxlen=_LATEST) for way in (False, True)}
    )
    _shared: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)  # answers of several threads

    def goes(self, states: int) -> bool:
        """Whether so many states are to travel with the next round."""
        wanted = self._pays is not self._tries if self.always is None else self.always
        return wanted and states <= _MOST_STATES

    def heard(self, carried: bool, way: float, shared: float) -> None:
        """A round of drafts came back: beyond the verifier's seconds, `shared` of them in the shared blocks,
        it took `way`.
        """
        with self._turn:
            if self.always is None and carried is self.goes(1):
                self._learn(carried, way, shared)
            # Else there were too many states, or the other side takes none.

    def _learn(self, carried: bool, way: float, shared: float) -> None:
        self._rounds += 1
        if self._rounds == 1 and not carried:
            return  # the verifier has caught up with the positions of which it was given states
        self._ways[carried].append(way)
        if not carried:
            self._shared.append(shared)
        if self._tries:
            if self._rounds >= _TRY or (carried and self._cost() > _DEAR * median(self._shared)):
                self._decide()
        elif self._rounds >= (self._rest if self._better() is self._pays else self._doubts):
            self._try()

    def _try(self) -> None:
        """Goes the other way for a few rounds, which alone will count for it."""
        self._tries, self._rounds = True, 0
        self._ways[not self._pays].clear()
        if self._pays:
            self._shared.clear()

    def _decide(self) -> None:
        pays, self._tries = self._better(), False
        if pays is self._pays:
            self._rest, self._rounds = min(2 * self._rest, _LONG_REST), 0
        self._pays, self._rest = pays, max(self._rest, _SHORT_REST)

    @property
    def _doubts(self) -> int:
        """Rounds after which the other way is tried because this one has become worse than the other was."""
        return max(_SHORT_REST, self._rest // 8)

    def _cost(self) -> float:
        return median(self._ways[True]) - median(self._ways[False])

    def _better(self) -> bool:
        """Whether states pay; what is done stays as long as the other is not clearly better."""
        if not self._ways[True]:
            return self._pays
        margin = _MARGIN if self._pays else -_MARGIN
        return self._cost() < (1 + margin) * median(self._shared)


class StateSender:
    """Puts states into the rounds of one answer, where the other side `takes` them and `rule` has them go."""

    def __init__(self, shared: SharedBlocks, takes: Callable[[], bool], rule: StateRule) -> None:
        self._shared, self._takes, self._rule = shared, takes, rule

    def __call__(self, round: Round, tokens: Sequence[int]) -> Round:
        """The round about the last of `tokens`, with their states or without.

        The verifier has read everything but the token before the drafts.
        """
        begin = max(round.start - 1, 0)
        if not round.drafts or not self._takes() or not self._rule.goes(len(tokens) - begin):
            return round
        return replace(round, begin=begin, states=self._shared.states(tokens, begin))
