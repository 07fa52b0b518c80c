"""What lmms-eval asks, in either form, as pictures, a question and settings; and the bytes of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import get_datetime_str
from PIL import Image

from tofc.errors import UserError
from tofc.images import open_image
from tofc.writing import write_json, write_whole

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance

# Settings of sampling, which greedy decoding has no use for.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")


@dataclass(frozen=True)
class Settings:
    """How to decode: settings of transformers' `generate`, and the strings at which an answer ends."""

    generation: Mapping[str, Any]
    until: tuple[str, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Settings:
        """A task's `generation_kwargs`: greedy unless they ask to sample at a temperature above 0."""
        generation = {key: value for key, value in values.items() if value is not None}
        # The checkpoint decides how pictures are cut; tasks set this for a model that leaves it open.
        generation.pop("image_aspect_ratio", None)
        until = generation.pop("until", ())
        temperature = generation.get("temperature")
        if temperature == 0 or not generation.get("do_sample", temperature is not None):
            generation = {key: value for key, value in generation.items() if key not in _SAMPLING}
            generation["do_sample"] = False
        else:
            generation["do_sample"] = True
        return cls(generation, tuple(end for end in ([until] if isinstance(until, str) else until) if end))

    def end(self, text: str) -> str:
        """The text up to the first of the strings at which it ends."""
        return text[: min((text.find(end) for end in self.until if end in text), default=len(text))].strip()


@dataclass(frozen=True)
class Request:
    """One question about one or several pictures, of document `doc_id` of a task."""

    task: str
    doc_id: int
    images: tuple[Image.Image, ...]
    question: str
    settings: Settings

    @property
    def key(self) -> bytes:
        """The same for the same pictures."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.width}x{image.height} ".encode())
            digest.update(image.tobytes())
        return digest.digest()

    @classmethod
    def read_simple(cls, instance: Instance, datasets: Mapping[str, Any]) -> Request:
        """A request of the simple form: the question as text, the pictures beside it."""
        question, generation, doc_to_visual, doc_id, task, split = instance.args
        images = doc_to_visual(datasets[task][split][doc_id]) or ()
        return cls._make(task, doc_id, images, question, generation)

    @classmethod
    def read_chat(cls, instance: Instance, datasets: Mapping[str, Any]) -> Request:
        """A request of the chat form: one turn of the user; as in LLaVA's template, pictures come first."""
        _, doc_to_messages, generation, doc_id, task, split = instance.args
        messages = ChatMessages(messages=doc_to_messages(datasets[task][split][doc_id])).messages
        roles = [message.role for message in messages]
        if roles != ["user"]:
            raise UserError(
                f"task {task} asks in turns of {', '.join(roles)}; tofc answers one turn of the user. "
                "Try --force_simple"
            )
        content = messages[0].content
        texts = [part.text for part in content if part.type == "text"]
        media = [part.url if part.type == "image" else part for part in content if part.type != "text"]
        return cls._make(task, doc_id, media, "\n".join(texts), generation)

    @classmethod
    def _make(
        cls, task: str, doc_id: int, images: Iterable[Any], question: str, generation: Mapping[str, Any]
    ) -> Request:
        pictures = list(images)
        if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
            kinds = ", ".join(sorted({type(picture).__name__ for picture in pictures})) or "nothing"
            raise UserError(
                f"document {doc_id} of task {task} shows {kinds}; tofc answers about one or several images"
            )
        opened = tuple(open_image(picture) for picture in pictures)
        return cls(task, doc_id, opened, question, Settings.read(generation))


def windows(requests: Iterable[Request], most: int) -> Iterator[list[tuple[bytes, Request]]]:
    """Consecutive requests with the same settings, about at most `most` different lists of pictures.

    Each comes with its `key`. Whatever is asked about a list of pictures in one window travels once.
    """
    window: list[tuple[bytes, Request]] = []
    for request in requests:
        key = request.key
        keys = {key, *(other for other, _ in window)}
        if window and (len(keys) > most or window[0][1].settings != request.settings):
            yield window
            window = []
        window.append((key, request))
    if window:
        yield window


@dataclass(frozen=True)
class Sent:
    """What one request cost.

    `bytes` are those of the whole packet, with every header; of uncoded features, two for each value.
    `tokens` are the visual tokens of all its pictures, `quality` is None without codec, `answer` is what was
    said. A request counts as if its pictures were sent for it alone.
    """

    task: str
    doc_id: int
    pictures: int
    bytes: int
    tokens: int
    quality: int | None
    answer_tokens: int
    answer: str = ""


def gather(sent: Sequence[Sent]) -> list[Sent]:
    """The requests of all processes, by task and document; the same in each process."""
    parts: list[Any] = [list(sent)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, list(sent))
    return sorted((one for part in parts for one in part), key=lambda one: (one.task, one.doc_id))


def rate_summary(sent: Sequence[Sent]) -> dict[str, dict[str, float]]:
    """By task, and for all: requests, mean and percentiles of their bytes, mean of their visual tokens.

    Percentiles lie between two requests where need be. Raises UserError where no request was answered.
    """
    if not sent:
        raise UserError("no request was answered by the model, so there is no rate to report")
    tasks = sorted({one.task for one in sent})
    groups = {task: [one for one in sent if one.task == task] for task in tasks}
    return {name: _statistics(some) for name, some in {**groups, "all": list(sent)}.items()}


def _statistics(sent: Sequence[Sent]) -> dict[str, float]:
    sizes = [one.bytes for one in sent]
    return {
        "requests": len(sent),
        "bytes_mean": float(np.mean(sizes)),
        "bytes_p50": float(np.percentile(sizes, 50)),
        "bytes_p95": float(np.percentile(sizes, 95)),
        "tokens_mean": float(np.mean([one.tokens for one in sent])),
    }


def write_rates(folder: Path, sent: Sequence[Sent], options: dict[str, Any]) -> Path:
    """Writes `..._rates.jsonl`, a line for each request, and `..._rates.json`, which sums them up.

    Returns the path of the first. Names begin with the end of the run, by the clock that dates lmms-eval's
    own files, and the process; an earlier run's files are never written over.
    """
    lines = folder / f"{get_datetime_str()}_{os.getpid()}_rates.jsonl"
    write_whole(lines, "".join(json.dumps(asdict(one)) + "\n" for one in sent))
    whole = {"options": options, "rates": rate_summary(sent), "requests": lines.name}
    write_json(lines.with_suffix(".json"), whole)
    return lines
