"""`tofc eval agents`: collaboration among agents on a benchmark (arXiv 2506.12479, tables IV to VI)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eval.lab.terminal import Evaluation
from tofc.cli.files import run_folder
from tofc.cli.options import ConfigArgument, OutOption
from tofc.cli.report import print_json

if TYPE_CHECKING:
    from eval.agents.measure import AgentsEvalConfig
    from tofc.agents import Agents

app = Evaluation("Agents alone, together, with fewer of them, revised, and by votes, with intervals.")

BLOCK = 8  # pictures of a part


@app.command()
def agents(
    config: ConfigArgument,
    fit: Annotated[
        Path | None,
        typer.Option("--fit", metavar="FILE", help="Learn the selector from other pictures, and write it."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FILE", help="Ask about pictures of training, and write the answers."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=2, help="The first N pictures.")] = None,
    out: OutOption = None,
) -> None:
    """Agents alone, together, with fewer of them, revised, and by votes, with intervals.

    A run that was killed goes on where it was.
    """
    from eval.agents.measure import AgentsEvalConfig
    from tofc.agents import Agents
    from tofc.config import load_yaml

    settings = load_yaml(config, AgentsEvalConfig)
    with Agents.from_config(settings.agents) as opened:
        if fit is not None:
            _fit(opened, settings, fit)
        elif cache is not None:
            _cache(opened, settings, limit, cache)
        else:
            _measure(opened, settings, limit, run_folder(out, settings.name))


def _fit(agents: Agents, settings: AgentsEvalConfig, file: Path) -> None:
    from eval.agents.measure import ask_alone, right_alone
    from eval.asking.answering import load_data
    from eval.lab.rows import blocks
    from eval.lab.terminal import track
    from tofc.agents import LearnedSelector
    from tofc.errors import UserError

    if settings.fit_data is None:
        raise UserError("there is nothing to learn from: name other pictures under fit_data")
    data = load_data(settings.fit_data)
    parts = blocks(min(settings.fit_limit, len(data)), BLOCK)
    cases = [
        case
        for part in track(parts, len(parts), "blocks of pictures")
        for case in ask_alone(agents, [data[number] for number in part])
    ]
    names, questions = [card.name for card in agents.config.agents], [c.question.prompt for c in cases]
    right = right_alone(cases)
    LearnedSelector.fit(names, questions, right).save(file)
    shares = dict(zip(names, right.mean(0).tolist(), strict=True))
    print_json({"selector": str(file), "questions": len(cases), "right": shares})


def _cache(agents: Agents, settings: AgentsEvalConfig, limit: int | None, file: Path) -> None:
    from eval.agents.corpus import ask_pictures, write_answers
    from eval.lab.terminal import track
    from tofc.errors import UserError
    from tofc.training.data import load_corpus

    if settings.train_data is None:
        raise UserError("there is nothing to ask about: name a corpus of training under train_data")
    corpus = load_corpus(settings.train_data.source, **settings.train_data.options)
    count, there = limit or settings.train_limit, corpus.num_pictures("train")  # None: no end
    count = count if there is None else min(count, there)
    asked = list(track(ask_pictures(agents, corpus, range(count), 0), count, "pictures"))
    write_answers(file, asked)
    print_json(
        {"cache": str(file), "pictures": len(asked), "questions": sum(len(one.turns) for one in asked)}
    )


def _measure(agents: Agents, settings: AgentsEvalConfig, limit: int | None, folder: Path) -> None:
    from eval.agents.measure import AgentsRow, Measurement, accuracy_table, analyse
    from eval.asking.answering import load_data
    from eval.lab.rows import Store, blocks, read_table, software
    from eval.lab.terminal import show, track

    data = load_data(settings.data)
    config = agents.config
    made_with = {"agents": asdict(config), "data": data.name, "software": software()}
    store = Store(folder, AgentsRow, made_with)
    parts = blocks(min(limit or settings.limit, len(data)), BLOCK)
    names = [f"{part.start:06d}-{part.stop:06d}" for part in parts]
    for part, name in track(zip(parts, names, strict=True), len(parts), "blocks of pictures"):
        if not store.has(name):
            numbers = range(1, len(config.agents) + 1)
            store.write(name, Measurement(agents, [data[number] for number in part]).run(numbers))
    best, found = analyse(read_table(store.merge(names), AgentsRow), [card.name for card in config.agents])
    title = f"{settings.name}: {parts[-1].stop} pictures ({data.name})"
    show(accuracy_table(found, best, title), pictures=parts[-1].stop)
    print_json({"title": title, "best_agent": best, "systems": [asdict(one) for one in found]})


if __name__ == "__main__":
    app(prog_name="python -m eval.agents")
