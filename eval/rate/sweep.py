"""A sweep from its config to rows, figures and summary: blocks of pictures through senders and edge."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import tofc
from eval.asking.answering import AskedPicture, Data, answer_all, load_data
from eval.lab.intervals import MIN_COMPUTED
from eval.lab.rows import ROWS, Store, checkpoint_fingerprint, read_rows, software, write_rows
from eval.lab.terminal import progress
from eval.rate.analysis import analyse
from eval.rate.config import RateConfig
from eval.rate.figure import draw, published
from eval.rate.points import AnswerRow, RatePoint, rows_of_runs
from eval.rate.report.page import write as write_report
from eval.rate.senders import Pictures, Received, Sender
from tofc.errors import UserError
from tofc.writing import write_json

SUMMARY, SIZES = "summary.json", "pictures.parquet"


def sweep(config: RateConfig, out: Path, processes: int | None, console: Console) -> dict[str, Any]:
    """Runs what is not yet done of a sweep, and writes rows, curves, report and summary, which it returns."""
    data = load_data(config.data)
    config = replace(config, limit=min(config.limit, len(data)))
    store = Store(out, AnswerRow, made_with(config, data.name))
    pixels = look_at(data, config, out)
    units = unfinished(config, store)
    total = len(config.blocks()) * len(config.senders())
    default = usable_cores() if config.device == "cpu" else 1
    count = max(1, min(processes or default, len(units)))
    if len(units) < total:
        console.print(f"{out}: {total - len(units)} of {total} units are done already")
    with progress(console) as bar:
        task = bar.add_task("sweep", total=total, completed=total - len(units))
        for done, _ in enumerate(run(config, store, units, count) if units else (), 1):
            bar.advance(task)
            if not console.is_terminal and done * 10 // len(units) > (done - 1) * 10 // len(units):
                console.print(f"{done} of {len(units)} units")
    points = [point for sender in config.senders() for point in sender.points]
    rows = store.merge(part_name(point, block) for point in points for block in config.blocks())
    summary = conclude(config, data, rows, points, pixels)
    write_report(summary, config, data, out)
    return summary


def from_runs(config: RateConfig, runs: Path, out: Path) -> dict[str, Any]:
    """Rows, curves and summary of lmms-eval runs (`eval.rate.points`) instead of a sweep of ours."""
    data = load_data(config.data)
    by_point = rows_of_runs(runs, data)
    named = {row.picture for row in next(iter(by_point.values()))}
    config = replace(config, limit=len(data))
    rows = out / ROWS
    write_rows(rows, (row for some in by_point.values() for row in some), AnswerRow)
    pixels = {name: size for name, size in look_at(data, config, out).items() if name in named}
    return conclude(config, data, rows, list(by_point), pixels)


def conclude(
    config: RateConfig, data: Data, rows: Path, points: Sequence[RatePoint], pixels: Mapping[str, int]
) -> dict[str, Any]:
    """Writes curves and summary beside the rows of `points`; returns the summary."""
    out = rows.parent
    summary: dict[str, Any] = {"name": config.name, "checkpoint": config.checkpoint, "data": data.name}
    summary |= analyse(rows, points, config, pixels)
    beside = published(config.beside) if config.beside else None
    if beside is not None:
        summary["published"] = asdict(beside)
    draw(summary, out, beside.curves if beside else ())
    write_json(out / SUMMARY, summary)
    return summary


def made_with(config: RateConfig, name: str) -> dict[str, Any]:
    """All that must be equal for the answers of two runs to belong into one sweep; `name` is the data's.

    The grids and the number of pictures may change: each point answers for itself.
    """
    return {
        "checkpoint": checkpoint_fingerprint(config.checkpoint),
        "data": {"name": name, "source": config.data.source, "options": config.data.options},
        "pictures_at_once": config.pictures_at_once,
        "dtype": config.dtype,
        "device": config.device,
        "software": software(),
    }


@dataclass(frozen=True)
class PictureSize:
    """Sides of a picture as it came, in pixels."""

    picture: str
    width: int
    height: int


def look_at(data: Data, config: RateConfig, out: Path) -> dict[str, int]:
    """Pixels of each picture of a sweep, by name, which are kept in `out`.

    UserError, before any work, where a kind of question is asked about so few pictures that the bootstrap
    would often lack it.
    """
    target = out / SIZES
    sizes = read_rows(target, PictureSize) if target.is_file() else []
    if len(sizes) < config.limit:
        sizes, kinds, mme = [], Counter[str](), config.score == "mme"
        for index in range(config.limit):
            example = data[index]
            sizes.append(PictureSize(example.name, *example.image.size))
            kinds.update({q.category if mme else q.form for q in example.questions})
        for kind, count in kinds.items():
            # Of MME's categories as many pictures are drawn as there are; else a resample may draw none.
            rare = count < 2 if mme else (1 - count / config.limit) ** config.limit > 1 - MIN_COMPUTED
            if rare and config.limit > 1:
                raise UserError(
                    f"only {count} of {config.limit} pictures have a question of the kind {kind}, too few "
                    "for an interval: raise limit (--limit)"
                )
        write_rows(target, sizes, PictureSize)
    return {one.picture: one.width * one.height for one in sizes}


@dataclass(frozen=True)
class Unit:
    """One sender on one block of pictures: what is done in one go, and done again if it is interrupted."""

    sender: Sender
    block: range


class Worker:
    """Both sides of the model, and the block of pictures that was last worked on."""

    def __init__(self, config: RateConfig, store: Store[AnswerRow]) -> None:
        self.config, self.store = config, store
        self.data = load_data(config.data)
        self.device = tofc.Device.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)
        self.edge = tofc.Edge.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)
        self.block = range(0)
        self.examples: list[AskedPicture] = []
        self.pictures = Pictures(self.device, [])

    def work(self, unit: Unit) -> int:
        """Does one unit, writes its rows, and returns how many there are."""
        if unit.block != self.block:
            self.block = unit.block
            self.examples = [self.data[index] for index in unit.block]
            self.pictures = Pictures(self.device, [example.image for example in self.examples])
        count = 0
        for point, arrived in zip(unit.sender.points, unit.sender.send(self.pictures), strict=True):
            rows = self._rows(point, arrived)
            self.store.write(part_name(point, unit.block), rows)
            count += len(rows)
        return count

    def _rows(self, point: RatePoint, arrived: Sequence[Received]) -> list[AnswerRow]:
        asked = [[(q.prompt, q.max_new_tokens) for q in example.questions] for example in self.examples]
        exit = dict(point.settings).get("exit")
        answers = answer_all(self.edge, [one.seen for one in arrived], asked, self.config.batch_size, exit)
        rows = []
        for example, one, given in zip(self.examples, arrived, answers, strict=True):
            where = (point.system, point.name, example.name, one.num_bytes, one.num_tokens)
            for number, (question, answer) in enumerate(zip(example.questions, given, strict=True)):
                asked_for = (number, question.form, question.category, question.truth)
                rows.append(AnswerRow(*where, *asked_for, answer, *question.score(answer)))
        return rows


def part_name(point: RatePoint, block: range) -> str:
    """The part of the store that holds the rows of a point about a block of pictures."""
    key = hashlib.sha256(f"{point.system}: {point.name}".encode()).hexdigest()[:12]
    return f"{point.system}-{key}-{block.start:06d}-{block.stop:06d}"


def unfinished(config: RateConfig, store: Store[AnswerRow]) -> list[Unit]:
    """What is left to do, block after block, so that the features of a block are computed once a process."""
    units = (Unit(sender, block) for block in config.blocks() for sender in config.senders())
    return [u for u in units if not store.has(*(part_name(point, u.block) for point in u.sender.points))]


def run(config: RateConfig, store: Store[AnswerRow], units: Sequence[Unit], processes: int) -> Iterator[int]:
    """Does all units; yields the number of rows of each as it is done, in any order."""
    if processes == 1:
        worker = Worker(config, store)
        yield from map(worker.work, units)
        return
    # A forked child would inherit threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // processes)
    with ProcessPoolExecutor(processes, context, _start, (config, store, threads)) as pool:
        futures = [pool.submit(_work, unit) for unit in units]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_worker: Worker | None = None  # of this process


def _start(config: RateConfig, store: Store[AnswerRow], threads: int) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _worker = Worker(config, store)


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its children: without this they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(unit: Unit) -> int:
    assert _worker is not None
    return _worker.work(unit)


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
