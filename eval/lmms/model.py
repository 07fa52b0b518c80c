"""Device and edge as a model of lmms-eval, in its simple and its chat form.

    lmms-eval eval --model tofc --model_args pretrained=scenes-tiny,quality=4,tokens=64 \
        --tasks realworldqa,mme --batch_size 8 --output_path out

A request's pictures become one packet, and the edge answers from its bytes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import simple_parse_args_string
from loguru import logger
from tqdm import tqdm

from eval.lmms.options import Options
from eval.lmms.requests import Request, Sent, gather, rate_summary, windows, write_rates
from eval.rate.senders import Float16, recoded
from tofc.clock import Stopwatch
from tofc.edge import Seen
from tofc.errors import UserError


@dataclass(frozen=True)
class Arrived:
    """What the edge has of a request's pictures, and what that cost; fields as in `Sent`."""

    seen: Seen
    bytes: int
    tokens: int
    quality: int | None


class TofcSimple(lmms):
    """The model of lmms-eval that answers through the bitstream; keywords are those of `Options`.

    `sent` holds what each answered request cost in this process.
    """

    is_simple = True
    _read = staticmethod(Request.read_simple)

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = Options.read(options)
        self.device_side, self.edge = self.options.load()
        self.device = self.edge.model.device
        self.batch_size = self.options.batch_size
        self.sent: list[Sent] = []
        self._seconds = 0.0
        self._folder = self.options.rates_folder(None)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> TofcSimple:
        """As lmms-eval makes it; what `--model_args` says comes before `--batch_size` and `--device`."""
        return cls(**{**(additional_config or {}), **simple_parse_args_string(arg_string)})

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """An answer to each request, in order; padding is answered with nothing and does not count."""
        real = [not request.metadata.get("__padding_only__") for request in requests]
        asked = [request for request, counts in zip(requests, real, strict=True) if counts]
        self._look_at_command_line(asked)
        bar = tqdm(total=len(asked), disable=self.rank != 0, desc="tofc")
        given: list[GenerationResult] = []
        for window in windows((self._read(one, self.task_dict) for one in asked), self.batch_size):
            given += self._answer(window)
            bar.update(len(window))
        bar.close()
        answers = iter(given)
        return [next(answers) if counts else GenerationResult("") for counts in real]

    def _answer(self, window: Sequence[tuple[bytes, Request]]) -> list[GenerationResult]:
        settings = window[0][1].settings
        watch = Stopwatch(self.device)
        arrived: dict[bytes, Arrived] = {}
        for key, request in window:
            if key not in arrived:
                arrived[key] = self._send(request)
        answers = self.edge.answer_many(
            [(arrived[key].seen, request.question) for key, request in window],
            batch_size=self.batch_size,
            **settings.generation,
        )
        self._seconds += watch.lap()
        for (key, request), answer in zip(window, answers, strict=True):
            one = arrived[key]
            cost = (len(request.images), one.bytes, one.tokens, one.quality, len(answer.tokens))
            said = settings.end(answer.text)
            self.sent.append(Sent(request.task, request.doc_id, *cost, said))
        return [
            GenerationResult(settings.end(answer.text), TokenCounts(output_tokens=len(answer.tokens)))
            for answer in answers
        ]

    def _send(self, request: Request) -> Arrived:
        """Sends the pictures of a request: in one packet, or without codec as plain features."""
        options = self.options
        codec = self.device_side.codec if options.codec else None
        if codec is not None:
            packet = self.device_side.encode(
                request.images, options.quality, options.tokens, options.max_bytes
            )
            data = bytes(packet)
            return Arrived(data, len(data), packet.num_tokens, codec.quality_of(packet.payload))
        seen = self.device_side.features_of(request.images, options.tokens)
        parts = [recoded(features, Float16()) for features in seen]
        num_bytes = sum(size for size, _ in parts)
        decoded = [features for _, features in parts]
        return Arrived(decoded, num_bytes, sum(features.tokens.shape[0] for features in decoded), None)

    def _look_at_command_line(self, requests: Sequence[Instance]) -> None:
        """Finds the folder of the results: lmms-eval hangs its command line on each task.

        A request knows its task as the owner of one of its functions. From Python there is no command line.
        """
        for owner in (getattr(part, "__self__", None) for request in requests for part in request.args):
            line = getattr(owner, "args", None)
            if line is None:
                continue
            if line.use_cache is not None:
                raise UserError("answers from --use_cache were sent in no packet: run without it")
            self._folder = self.options.rates_folder(line.output_path)
            return

    def clean(self) -> None:
        """What lmms-eval calls in every process after the last answer: writes the rates, frees the models."""
        everything = gather(self.sent)
        rates = rate_summary(everything)
        if self.rank == 0:
            self._report(everything, rates)
        del self.device_side, self.edge
        super().clean()

    def _report(self, sent: list[Sent], rates: dict[str, dict[str, float]]) -> None:
        """Rates into their files, into the log, and with their means into lmms-eval's results."""
        words = sum(one.answer_tokens for one in sent)
        means = {
            "bytes_per_request": rates["all"]["bytes_mean"],
            "visual_tokens_per_request": rates["all"]["tokens_mean"],
        }
        log_metrics(self._seconds, words, words / self._seconds, means)
        for name, row in rates.items():
            logger.info(
                "{}: {requests} requests, {bytes_mean:.1f} bytes on average, half below {bytes_p50:.0f}, "
                "95 % below {bytes_p95:.0f}",
                name,
                **row,
            )
        if self._folder is None:
            logger.warning("no --output_path, so the bytes of each request are not written")
        else:
            logger.info(
                "the bytes of each request: {}", write_rates(self._folder, sent, asdict(self.options))
            )

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Not offered."""
        _refuse("loglikelihood")

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Not offered."""
        _refuse("generate_until_multi_round")


class TofcChat(TofcSimple):
    """The same with requests in the form of chat messages, which lmms-eval prefers."""

    is_simple = False
    _read = staticmethod(Request.read_chat)


def _refuse(kind: str) -> NoReturn:
    raise NotImplementedError(
        f"tofc does not answer {kind} requests; it answers tasks with output_type generate_until, such as "
        "realworldqa and mme"
    )
