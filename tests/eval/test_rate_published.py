"""RealWorldQA and MME in sweeps: their rows as pictures with questions, scored as lmms-eval scores them."""

from __future__ import annotations

import base64
import functools
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from eval.asking.answering import AskedPicture, ScoredQuestion, SweepData, load_data
from eval.lmms.requests import Sent, write_rates
from eval.rate.config import RateConfig, Systems
from eval.rate.figure import published
from eval.rate.points import rows_of_runs
from eval.rate.sweep import look_at
from eval.scenes.export import export_split
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tofc.cli.app import app
from tofc.config import load_yaml
from tofc.errors import ConfigError, UserError

SCENES = 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lmms_eval", reason="prompts and scores are lmms-eval's")
    out = tmp_path_factory.mktemp("published")
    assert list(export_split(out, "test", SCENES)) == [1, 2]
    return out / "lmms-lab-encoder"


def data(name: str, folder: Path):
    return load_data(SweepData(f"eval.rate.published:{name}", {"source": str(folder)}))


def test_mme_asks_in_pairs_and_scores_like_the_task(exported: Path) -> None:
    mme = data("MmeData", exported / "MME")
    questions = [q for i in range(SCENES) for q in benchmark_questions(make_scene("test", i)[0])]
    asked = [one for index in range(len(mme)) for one in mme[index].questions]
    assert len(asked) == sum(question.form == "yes_no" for question in questions)
    names = [mme[index].name for index in range(len(mme))]
    assert len(set(names)) == len(names)
    assert mme[0].image.size == (448, 448)
    yes = next(one for one in asked if one.truth == "Yes")
    assert yes.form in ("perception", "cognition")
    assert yes.prompt.endswith("?\nAnswer the question using a single word or phrase.")
    assert [yes.score(answer) for answer in ("Yes", "yes, it is", "No", "It is, yes")] == [
        (1, 1), (1, 1), (0, 1), (0, 1),
    ]  # fmt: skip


def test_realworldqa_asks_about_each_picture_once(exported: Path) -> None:
    real = data("RealWorldQaData", exported / "RealWorldQA")
    assert len(real) == SCENES
    for index in range(SCENES):
        expected = [
            q for q in benchmark_questions(make_scene("test", index)[0]) if q.form in ("choice", "free")
        ]
        example = real[index]
        assert {q.form for q in example.questions} == {"exact_match"}
        assert [(q.category, q.prompt, q.truth) for q in example.questions] == [
            (q.form, q.prompt, q.answer) for q in expected
        ]
        for question in example.questions:
            assert question.score(question.truth) == (1, 1)
            assert question.score("nonsense") == (0, 1)


BENCHMARKS = {"eval-mme": "perception", "eval-realworldqa": "exact_match"}
BENCHMARKS |= {"eval-mmbench": "choice", "eval-seedbench": "choice"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_bundled_sweeps_have_the_curves_of_the_paper(name: str) -> None:
    config = load_yaml(name, RateConfig)
    points = [point for sender in config.senders() for point in sender.points]
    curves = {point.curve(config.merged_apart) for point in points}
    assert curves >= {"raw", "tofc", "jpeg", "webp", "jpeg_fmm", "webp_fmm", "avif"}
    assert {dict(point.settings).get("tiling") for point in points} == {None, "anyres"}
    assert config.headline == BENCHMARKS[name]
    assert config.beside is not None
    assert published(config.beside).curves or published(config.beside).savings


def write_mmbench(folder: Path, as_tsv: bool) -> Path:
    """Three questions of MMBench's schema, two of which are asked in two rotations."""
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    rows = [
        {"index": index, "question": "Which colour?", "hint": None, "A": first, "B": second, "C": None,
         "D": None, "answer": answer, "category": "colour", "l2-category": "fine"}
        for index, first, second, answer in (
            (7, "red", "blue", "A"), (1_000_007, "blue", "red", "B"), (8, "red", "blue", "A"),
            (1_000_008, "blue", "red", "B"), (9, "red", "blue", "A"),
        )
    ]  # fmt: skip
    if as_tsv:
        picture = base64.b64encode(buffer.getvalue()).decode()
        keys = list(rows[0])
        lines = [[*keys, "image"]] + [[str(row[k] or "") for k in keys] + [picture] for row in rows]
        (folder / "MMBench_DEV_EN_V11.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
        return folder
    for row in rows:
        row["image"] = {"bytes": buffer.getvalue(), "path": None}
    (folder / "en").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "en" / "dev-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("as_tsv", [False, True])
def test_mmbench_asks_rotations_about_one_picture(as_tsv: bool, tmp_path: Path) -> None:
    pytest.importorskip("lmms_eval")
    bench = data("MmBenchData", write_mmbench(tmp_path, as_tsv))
    assert [(bench[i].name, len(bench[i].questions)) for i in range(len(bench))] == [
        ("7", 2), ("8", 2), ("9", 1)
    ]  # fmt: skip
    asked = bench[0].questions[1]
    assert asked.prompt.splitlines()[1:4] == ["A. blue", "B. red", ""]
    assert [asked.score(answer)[0] for answer in ("B", "B.", "It is red", "A", "")] == [1, 1, 1, 0, 0]
    assert bench.document(3) == ("8", 1)


def test_seedbench_asks_about_images_alone(tmp_path: Path) -> None:
    pytest.importorskip("lmms_eval")
    seed = data("SeedBenchData", write_seedbench(tmp_path))
    assert [seed[i].name for i in range(len(seed))] == ["q0", "q2"]
    (question,) = seed[1].questions
    assert question.prompt.endswith(
        "D. four\nAnswer with the option's letter from the given choices directly."
    )
    assert [question.score(answer)[0] for answer in ("C", "c. three", "A", "")] == [1, 1, 0, 0]


def write_seedbench(folder: Path) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "blue").save(buffer, "PNG")
    choices = dict(
        zip(("choice_a", "choice_b", "choice_c", "choice_d"), ("one", "two", "three", "four"), strict=True)
    )
    rows = [
        {"question_id": f"q{i}", "question": "How many?", "answer": "C", "question_type_id": 1, **choices,
         "data_type": "video" if i == 1 else "image", "image": [{"bytes": buffer.getvalue(), "path": None}]}
        for i in range(3)
    ]  # fmt: skip
    (folder / "data").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), folder / "data" / "test-00000-of-00001.parquet"
    )
    return folder


@pytest.mark.parametrize("name", ["mmbench", "seedbench"])
def test_a_sweep_of_a_benchmark(name: str, checkpoint_folder: Path, tmp_path: Path) -> None:
    """From files in the published schema to curves, merged pictures apart and in stock tiles."""
    pytest.importorskip("lmms_eval")
    cls, write = {"mmbench": ("MmBenchData", functools.partial(write_mmbench, as_tsv=True)),
                  "seedbench": ("SeedBenchData", write_seedbench)}[name]  # fmt: skip
    (tmp_path / "data").mkdir()
    source = str(write(tmp_path / "data"))
    values = {
        "name": name, "checkpoint": str(checkpoint_folder), "headline": "choice", "resamples": 20,
        "data": {"source": f"eval.rate.published:{cls}", "options": {"source": source}},
        "score": "circular" if name == "mmbench" else "accuracy", "beside": name, "merged_apart": True,
        "baseline_tokens": ["all", 12],
        "systems": {
            "tofc": [{"quality": [4], "tokens": [12]}],
            "jpeg": [{"quality": [30]}, {"quality": [30], "tiling": ["anyres"], "tokens": ["all"]}],
        },
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    out = tmp_path / "out"
    words = ["eval", "rate", str(tmp_path / "config.yaml"), "--out", str(out), "--processes", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    summary = json.loads((out / "summary.json").read_text())
    systems = [point["system"] for point in summary["points"]]
    assert systems == ["raw", "tofc", "jpeg", "jpeg_fmm", "jpeg"]
    tokens = {point["point"]: point["tokens"] for point in summary["points"] if point["system"] == "jpeg"}
    assert tokens.pop("quality 30, scale 1.0, chroma 4:2:0, tiling anyres, tokens all") > max(tokens.values())
    assert all(point["bits_per_pixel"] > 0 for point in summary["points"])
    assert "arXiv 2604.00314" in (out / "curves-bpp.svg").read_text()
    assert "arXiv 2604.00314" not in (out / "curves.svg").read_text()


def write_runs(folder: Path, task: str, real: Any, answers: Callable[[int, int], str]) -> int:
    """What two runs of lmms-eval leave: one uncoded, one through packets; returns the documents."""
    count = real.table.num_rows
    for number, options in enumerate(({"codec": False, "tokens": "all"}, {"codec": True, "tokens": 64})):
        options = {"quality": 4 if number else None, "max_bytes": None, "exit": "full", **options}
        sent = [
            Sent(task, i, 1, 1000 - 900 * number, 64, options["quality"], 1, answers(number, i))
            for i in range(count)
        ]
        write_rates(folder / str(number), sent, options)
    return count


@pytest.mark.parametrize("task", ["mme", "realworldqa"])
def test_scores_of_lmms_eval_runs_are_those_of_lmms_eval(task: str, exported: Path, tmp_path: Path) -> None:
    """The same answers, counted by the task's own functions."""
    name, folder = {"mme": ("MmeData", "MME"), "realworldqa": ("RealWorldQaData", "RealWorldQA")}[task]
    real = data(name, exported / folder)
    draw = np.random.default_rng(5).random((2, real.table.num_rows))
    docs = real.table.to_pylist()

    def answer(run: int, index: int) -> str:
        return docs[index]["answer"] if draw[run, index] < 0.7 else "No, 7"

    write_runs(tmp_path / "runs", task, real, answer)
    values = {
        "name": "runs", "checkpoint": "none", "systems": {}, "resamples": 50,
        "data": {"source": f"eval.rate.published:{name}", "options": {"source": str(exported / folder)}},
        **({"headline": "mme", "score": "mme"} if task == "mme" else {"headline": "exact_match"}),
        "beside": task,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(
        app, ["eval", "rate", str(tmp_path / "config.yaml"), "--answers", str(tmp_path / "runs"),
              "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [point["system"] for point in summary["points"]] == ["raw", "tofc"]
    size = summary["points"][1]
    assert size["bytes"]["mean"] == 100
    assert size["bits_per_pixel"] == pytest.approx(800 / 448**2)
    for run, point in enumerate(summary["points"]):
        scores: dict[str, list[Any]] = {}
        for index, doc in enumerate(docs):
            found = real.functions.__dict__[f"{task}_process_results"](doc, [answer(run, index)])
            for metric, value in found.items():
                scores.setdefault(metric, []).append(value)
        for metric, some in scores.items():
            if task == "mme":
                form, expected = metric.split("_")[1], real.functions.mme_aggregate_results(some)
            else:
                form, expected = metric, np.mean(some)
            factor = summary["scales"][form]["factor"] if task == "mme" else 1
            assert factor * point["accuracy"][form]["value"] == pytest.approx(expected)
    assert (tmp_path / "out" / "curves-bpp.svg").is_file()


def test_runs_without_reference_or_twice_at_a_point_are_refused(exported: Path, tmp_path: Path) -> None:
    real = data("RealWorldQaData", exported / "RealWorldQA")
    write_runs(tmp_path, "realworldqa", real, lambda run, i: "A")
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    with pytest.raises(UserError, match="second run"):
        rows_of_runs(tmp_path, real)
    shutil.rmtree(tmp_path / "2")
    shutil.rmtree(tmp_path / "0")
    with pytest.raises(UserError, match="codec=false,tokens=all"):
        rows_of_runs(tmp_path, real)


def test_a_kind_of_question_about_too_few_pictures_is_refused_before_the_work(tmp_path: Path) -> None:
    class Rare:
        name = "rare"

        def __len__(self) -> int:
            return 50

        def __getitem__(self, index: int) -> AskedPicture:
            asked = ScoredQuestion("free" if index == 7 else "choice", "all", "?", "A", 4, lambda _: (1, 1))
            return AskedPicture(f"p{index}", Image.new("RGB", (2, 3)), (asked,))

    config = RateConfig(name="rare", checkpoint="none", systems=Systems(), limit=50)
    with pytest.raises(UserError, match=r"only 1 of 50 .* free"):
        look_at(Rare(), config, tmp_path)
    assert look_at(Rare(), replace(config, limit=7), tmp_path) == {f"p{i}": 6 for i in range(7)}


def test_what_is_not_there_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no data/test"):
        data("MmeData", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="hf download --repo-type dataset lmms-lab-encoder/None"):
        load_data(SweepData("eval.rate.published:MmeData", {"source": "lmms-lab-encoder/None"}))
