"""How long each stage takes on one machine: measured, or counted where its networks cannot run here."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from eval.latency.assemble import Assembled, Picture
from eval.latency.config import ALL, Machine, Rates
from eval.latency.count import Counts
from eval.latency.rows import MEASURED, MODELLED, Timing
from tofc.language.batch import Batch, Generation
from tofc.language.model import LanguageModel
from tofc.language.prompt import Prompt
from tofc.model import visual_embeddings

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clock:
    """Medians of `repeats` runs after `warm_up` more."""

    repeats: int
    warm_up: int

    def median(self, sample: Callable[[], float]) -> float:
        """Of what each run says that it took."""
        return statistics.median([sample() for _ in range(self.warm_up + self.repeats)][self.warm_up :])

    def median_excess(
        self, longer: Callable[[], object], shorter: Callable[[], object], runs_on: torch.device
    ) -> float:
        """By how much one call takes longer than another; they take turns."""
        sample = _sampler(runs_on)
        return self.median(lambda: sample(longer) - sample(shorter))

    def seconds(self, call: Callable[[], object], runs_on: torch.device) -> float:
        """Of a call: between two events of the current stream on a CUDA device, else of processor time.

        Processor time does not count other programs; it is that of one core while torch has one thread.
        """
        sample = _sampler(runs_on)
        return self.median(lambda: sample(call))


def _sampler(runs_on: torch.device) -> Callable[[Callable[[], object]], float]:
    return _between_events if runs_on.type == "cuda" else processor_seconds


def processor_seconds(call: Callable[[], object]) -> float:
    """Seconds of this process's processor time that a call takes."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _between_events(call: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


class Processor:
    """The stages that a processor has, always measured on the one that is here."""

    def __init__(self, model: Assembled, machine: Machine, clock: Clock) -> None:
        self._model, self._clock, self._factor = model, clock, machine.processor_factor

    def preprocess(self, picture: Picture, tiling: str) -> Timing:
        """Cuts, resizes and normalises a picture as the stock processor does."""
        device = self._model.devices[tiling]
        return self.coding(lambda: device.vision.cut([picture.image], tiling))

    def coding(self, call: Callable[[], object]) -> Timing:
        """Coding or decoding of any kind."""
        how = f"median of {self._clock.repeats} on {processor_name()}"
        seconds = self._clock.seconds(call, _CPU)
        if self._factor == 1:
            return Timing(seconds, MEASURED, how)
        return Timing(seconds * self._factor, MODELLED, f"{how}, times {self._factor:g}")

    def merge(self, picture: Picture, tiling: str, tokens: int) -> Timing:
        """DPC-KNN and averages, of features that lie in the processor's memory."""
        device, whole = self._model.devices[tiling], self._model.features(picture, tiling, ALL)
        return self.coding(lambda: device.merge(whole, tokens))


class MeasuredNetworks:
    """The stages of neural networks and of merging, for a picture with one of the tilings: timed here.

    `tokens` is the number of visual tokens that are left, or "all".
    """

    def __init__(self, model: Assembled, clock: Clock) -> None:
        if model.language is None:
            raise ValueError("a model without language side cannot be measured")
        self._model, self._language, self._clock = model, model.language, clock
        self._runs_on = model.vision.device

    def vision(self, picture: Picture, tiling: str) -> Timing:
        """The vision tower on all tiles."""
        encoder = self._model.vision.encoder
        tiles = self._model.features(picture, tiling, ALL).layout.num_tiles
        side, dtype = encoder.image_size, next(encoder.parameters()).dtype
        pixels = torch.zeros(tiles, 3, side, side, device=self._runs_on, dtype=dtype)
        with torch.inference_mode():
            return self._timing(lambda: encoder(pixels))

    def merge(self, picture: Picture, tiling: str, tokens: int) -> Timing:
        """DPC-KNN and averages."""
        device, whole = self._model.devices[tiling], self._model.features(picture, tiling, ALL)
        whole = replace(whole, tokens=whole.tokens.to(self._runs_on))  # where the tower leaves them
        return self._timing(lambda: device.merge(whole, tokens))

    def project(self, picture: Picture, tiling: str, tokens: int | str) -> Timing:
        """The projector, and the stock layout of its output."""
        features = self._model.features(picture, tiling, tokens)
        return self._timing(lambda: visual_embeddings(self._language, [features]))

    def prefill(self, picture: Picture, tiling: str, tokens: int | str) -> Timing:
        """The prompt up to the first token of the answer."""
        prompt = self._prompt(picture, tiling, tokens)
        return self._timing(lambda: self._generate(prompt, 1))

    def next_tokens(self, picture: Picture, tiling: str, tokens: int | str, count: int) -> Timing:
        """`count` more tokens: what an answer takes beyond one of a single token, run in turns."""
        prompt = self._prompt(picture, tiling, tokens)
        seconds = self._clock.median_excess(
            lambda: self._generate(prompt, 1 + count), lambda: self._generate(prompt, 1), self._runs_on
        )
        return Timing(seconds, MEASURED, self._how)

    def _prompt(self, picture: Picture, tiling: str, tokens: int | str) -> Prompt:
        (embeddings,) = visual_embeddings(self._language, [self._model.features(picture, tiling, tokens)])
        return self._model.prompt(embeddings, picture.question)

    def _generate(self, prompt: Prompt, count: int) -> None:
        model = LanguageModel(self._language)
        batch = Batch(model, model.full, frozenset())  # no token ends it
        batch.join([Generation(prompt, count)])
        batch.run()

    def _timing(self, call: Callable[[], object]) -> Timing:
        return Timing(self._clock.seconds(call, self._runs_on), MEASURED, self._how)

    @property
    def _how(self) -> str:
        return f"median of {self._clock.repeats} on {networks_name(self._runs_on)}"


class CountedNetworks:
    """The same stages counted, with the rates of an accelerator that is not here."""

    def __init__(self, model: Assembled, rates: Rates) -> None:
        self._counts, self._rates, self._text_tokens = Counts(model.shape), rates, model.text_tokens

    def vision(self, picture: Picture, tiling: str) -> Timing:
        """The vision tower on all tiles."""
        tiles = self._counts.layout(picture.size, tiling).num_tiles
        return self._counts.vision(tiles).timing(self._rates)

    def merge(self, picture: Picture, tiling: str, tokens: int) -> Timing:
        """DPC-KNN and averages."""
        whole = self._counts.layout(picture.size, tiling).num_tokens
        return self._counts.merge(whole, tokens).timing(self._rates, float64=True)

    def project(self, picture: Picture, tiling: str, tokens: int | str) -> Timing:
        """The projector, on whole tiles where nothing was merged."""
        layout = self._counts.layout(picture.size, tiling)
        whole = tokens == ALL or int(tokens) >= layout.num_tokens
        positions = layout.num_tiles * layout.side**2 if whole else int(tokens)
        return self._counts.project(positions).timing(self._rates)

    def prefill(self, picture: Picture, tiling: str, tokens: int | str) -> Timing:
        """The prompt up to the first token of the answer."""
        return self._counts.prefill(self._positions(picture, tiling, tokens)).timing(self._rates)

    def next_tokens(self, picture: Picture, tiling: str, tokens: int | str, count: int) -> Timing:
        """`count` more tokens, each as long as the one in their middle."""
        middle = self._positions(picture, tiling, tokens) + count // 2
        one = self._counts.next_token(middle).timing(self._rates)
        return Timing(count * one.seconds, one.basis, f"{count} times {one.how}")

    def _positions(self, picture: Picture, tiling: str, tokens: int | str) -> int:
        whole = self._counts.layout(picture.size, tiling).num_tokens
        left = whole if tokens == ALL else min(int(tokens), whole)
        return self._text_tokens + self._counts.visual_positions(picture.size, tiling, left)


Networks = MeasuredNetworks | CountedNetworks


def networks_device(machine: Machine) -> torch.device | None:
    """What a machine's networks run on here; None where they are counted."""
    if machine.networks == "cpu":
        return _CPU
    if machine.networks == "cuda" and torch.cuda.is_available():
        return torch.device("cuda")
    return None


def networks_name(runs_on: torch.device) -> str:
    """What that is called."""
    return torch.cuda.get_device_name(runs_on) if runs_on.type == "cuda" else processor_name()


def processor_name() -> str:
    """The processor that is here."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"one core of {name}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute on one core, on which processor time is time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
