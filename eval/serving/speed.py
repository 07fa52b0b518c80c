"""Answers a second of a server that decodes requests together, and a picture's question over a shaped link.

Beside the server stand one that takes requests one at a time and replicas under Ray Serve; beside packets of
TOFC, WebP files.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import tofc
from eval.baselines import WebP
from eval.latency.link import Link
from eval.serving.process import DESCRIBE, LoadQuestion, Server, questions, running_server, scene
from eval.serving.proxy import ShapedProxy
from tofc.serving.client import RemoteEdge

# What is asked: benchmark questions have answers of one to three tokens, descriptions some fifty.
KINDS = ("short", "mixed", "describe")


def measure_throughput(
    seconds: float,
    clients: int,
    batch: int,
    rounds: int = 3,
    threads: int | None = None,
    replicas: int | None = None,
) -> list[dict[str, Any]]:
    """A row for each kind of question: answers a second of two servers, and their ratio.

    The first takes one request at a time, the second batches of `batch`; with `replicas` both batch, and the
    second has so many processes under Ray Serve. They take turns, `seconds` each, so that whatever else the
    machine does meets both alike. Answers are compared with those of `tofc.Edge`: RuntimeError where one is
    another.
    """
    everything = questions(8, per_scene=4, rates=((64, 4),))
    pools = {
        "short": [question for question in everything if question.text != DESCRIBE],
        "mixed": everything,  # four short ones and a description of each picture
        "describe": [question for question in everything if question.text == DESCRIBE],
    }
    options = ["--packets-only", "--deadline", "600", *(["--threads", str(threads)] if threads else [])]
    both = {"one at a time": ["--batch", "1"], "batched": ["--batch", str(batch)]}
    if replicas is not None:
        both = {
            "one server": both["batched"],
            "replicas": [*both["batched"], "--ray", "--replicas", f"{replicas}"],
        }
    with TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                running_server(Path(folder), *more, *options, patience=300, RAY_worker_niceness="0")
            )
            for name, more in both.items()
        }
        return [_row(kind, pools[kind], servers, seconds, clients, rounds) for kind in KINDS]


def _row(
    kind: str, pool: list[LoadQuestion], servers: dict[str, Server], seconds: float, clients: int, rounds: int
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds):
        for name, server in servers.items():
            rates[name].append(_rate(server, pool, seconds, clients, seed=number))
    medians = {name: round(float(np.median(seen)), 2) for name, seen in rates.items()}
    first, second = medians.values()
    return {"questions": kind, **medians, "ratio": round(second / first, 2)}


def _rate(server: Server, pool: list[LoadQuestion], seconds: float, clients: int, seed: int) -> float:
    """Answers a second to `clients` that ask one question after another."""
    begin = time.monotonic()
    until = begin + seconds

    def client(number: int) -> int:
        chance = random.Random(seed * 1000 + number)
        count = 0
        with RemoteEdge(server.url, timeout=600, retries=20, seed=number) as edge:
            while time.monotonic() < until:
                question = chance.choice(pool)
                answer = edge.answer(question.packet, question.text)
                if answer.text != question.expected:
                    raise RuntimeError(f"{question.text} {answer.text!r}, not {question.expected!r}")
                count += 1
        return count

    with ThreadPoolExecutor(clients) as executor:
        answered = sum(executor.map(client, range(clients)))
    return answered / (time.monotonic() - begin)


# docs/log/rate.md, the first 160 test pictures: of the yes/no questions TOFC's default answers 93.1 %, 16
# tokens 92.0 %; WebP at a quarter of the side 93.1 % from files of 855 bytes in the mean, 92.8 % from 563.
EQUAL_BYTES = (855, 563)
SIDE = 112


def equal_quality(images: list[Image.Image], target: float, side: int = SIDE) -> int:
    """The lowest quality of WebP at which pictures of this side have `target` bytes in the mean."""
    small = [image.resize((side, side), Image.Resampling.LANCZOS) for image in images]
    codec = WebP()
    for quality in range(0, 101):
        if np.mean([len(codec.encode(image, quality)) for image in small]) >= target:
            return quality
    return 100


def measure_link(mbit: float, round_trip: float, pictures: int) -> list[dict[str, Any]]:
    """A row for each system: medians over pictures of the parts of a request, in milliseconds, and bytes.

    "device" is all work before sending; "link" all that is neither that nor the server's, handshakes left
    out: the connection is open. The picture is there as pixels, the question has a short answer.
    """
    device = tofc.Device.from_pretrained("scenes-tiny")
    made = [scene(index) for index in range(pictures)]
    equal = {size: equal_quality([image for image, _ in made], size) for size in EQUAL_BYTES}
    systems: dict[str, Callable[[Image.Image], bytes]] = {
        "TOFC, the default": lambda image: bytes(device.encode(image)),
        "TOFC, 16 tokens": lambda image: bytes(device.encode(image, tokens=16)),
        **{f"WebP {SIDE}x{SIDE}, q {q}": partial(_webp, side=SIDE, quality=q) for q in equal.values()},
        "WebP 448x448, q 1": partial(_webp, side=448, quality=1),
        "WebP 448x448, q 75": partial(_webp, side=448, quality=75),
    }
    link = Link(mbit, round_trip)
    with (
        TemporaryDirectory() as folder,
        running_server(Path(folder)) as server,
        ShapedProxy(server.port, link) as proxy,
        RemoteEdge(proxy.url, timeout=120) as edge,
    ):
        for encode in systems.values():  # what is compiled on first use
            _ask(edge, encode(made[0][0]), made[0][1][0])
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
        for image, prompts in made:
            for name, encode in systems.items():
                begin = time.perf_counter()
                data = encode(image)
                encoded = time.perf_counter()
                timing = _ask(edge, data, prompts[0])
                end = time.perf_counter()
                server_side = timing["server"]
                rows[name].append(
                    {
                        "bytes": len(data),
                        "device": 1e3 * (encoded - begin),
                        "link": 1e3 * (end - encoded - server_side),
                        "server": 1e3 * server_side,
                        "total": 1e3 * (end - begin),
                    }
                )
    medians = [
        {"system": name, **{part: round(float(np.median([r[part] for r in seen])), 1) for part in seen[0]}}
        for name, seen in rows.items()
    ]
    totals = [float(np.median([row["total"] for row in seen])) for seen in rows.values()]
    return [
        {**row, "over_tofc": round(total / totals[0], 2)} for row, total in zip(medians, totals, strict=True)
    ]


def _webp(image: Image.Image, side: int, quality: int) -> bytes:
    """Pillow's default effort: its slowest takes longer than it saves on any link above some kbit/s."""
    small = image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=quality)
    return out.getvalue()


def _ask(edge: RemoteEdge, data: bytes, question: str) -> dict[str, float]:
    is_picture = data.startswith(b"RIFF")
    answer = edge.answer_image(data, question) if is_picture else edge.answer(data, question)
    return dict(answer.timing)
