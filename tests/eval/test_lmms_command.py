"""RealWorldQA and MME of lmms-eval, unmodified and offline, on exported scenes; its real command lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.asking.question import is_correct, yes_or_no
from eval.scenes.export import export_split
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tofc import Device, Edge

SCENES = 3  # 15 questions of RealWorldQA: an odd number, so that two processes need padding
MODEL_ARGS = "pretrained=scenes-tiny,quality=4,tokens=64,exit=full"
PERCEPTION = {"existence", "count", "position", "colour", "text"}  # ours; what is left counts as cognition
MME_PROMPT = "\nAnswer the question using a single word or phrase."


class Run:
    """What lmms-eval left in its output folder."""

    def __init__(self, folder: Path) -> None:
        # The command ends with exit code 0 even where it failed: what counts is what it wrote.
        self.results = json.loads(self._one(folder, "*_results.json").read_text())
        self.scores = {
            (task, metric): row[f"{metric},none"]
            for task, row in self.results["results"].items()
            for metric in ("exact_match", "mme_perception_score", "mme_cognition_score")
            if f"{metric},none" in row
        }
        self.answers = {task: self._answers(folder, task) for task in ("realworldqa", "mme")}
        self.sent = self._lines(folder, "*_rates.jsonl")
        self.rates = json.loads(self._one(folder, "*_rates.json").read_text())["rates"]

    def _answers(self, folder: Path, task: str) -> list[str]:
        rows = sorted(self._lines(folder, f"*_samples_{task}.jsonl"), key=lambda row: row["doc_id"])
        assert [row["doc_id"] for row in rows] == list(range(len(rows)))
        return [row["filtered_resps"] for row in rows]

    def _lines(self, folder: Path, pattern: str) -> list[dict]:
        return [json.loads(line) for line in self._one(folder, pattern).read_text().splitlines()]

    def _one(self, folder: Path, pattern: str) -> Path:
        (path,) = (folder / "scenes-tiny").glob(pattern)
        return path


def run(exported: Path, out: Path, launcher: list[str], *arguments: str) -> Run:
    """Runs lmms-eval from the folder of the exported scenes, offline."""
    home = {"HF_HOME": str(exported / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [*launcher, "eval", "--model", "tofc", "--model_args", MODEL_ARGS, "--tasks", "realworldqa,mme",
         "--batch_size", "4", "--device", "cpu", "--output_path", str(out), "--log_samples", *arguments],
        cwd=exported,
        env={**os.environ, **home, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "scenes-tiny").is_dir(), done.stdout + done.stderr
    return Run(out)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    assert list(export_split(folder, "test", SCENES))[-1] == SCENES
    return folder


@pytest.fixture(scope="module")
def one_process(exported):
    return run(exported, exported / "one", [str(Path(sys.executable).with_name("lmms-eval"))])


@pytest.fixture(scope="module")
def questions():
    """Each question of the exported scenes with the scene that it is about, as the tasks' documents."""
    both = {"realworldqa": [], "mme": []}
    for index in range(SCENES):
        for question in benchmark_questions(make_scene("test", index)[0]):
            if question.form != "describe":
                both["mme" if question.form == "yes_no" else "realworldqa"].append((index, question))
    return both


def test_realworldqa_scores_the_share_of_right_answers(one_process, questions):
    answers = one_process.answers["realworldqa"]
    right = [is_correct(q, given) for (_, q), given in zip(questions["realworldqa"], answers, strict=True)]
    assert len(right) == 15
    assert one_process.scores["realworldqa", "exact_match"] == pytest.approx(sum(right) / len(right))


def test_mme_scores_accuracy_and_accuracy_of_pairs(one_process, questions):
    pairs = {}
    for (scene, q), given in zip(questions["mme"], one_process.answers["mme"], strict=True):
        pairs.setdefault(q.category, {}).setdefault(scene, []).append(yes_or_no(given) == q.answer.lower())
    assert all(len(both) == 2 for scenes in pairs.values() for both in scenes.values())
    by_category = {
        category: 100 * np.mean([np.mean(both) + all(both) for both in scenes.values()])
        for category, scenes in pairs.items()
    }
    for metric, categories in (
        ("mme_perception_score", by_category.keys() & PERCEPTION),
        ("mme_cognition_score", by_category.keys() - PERCEPTION),
    ):
        expected = sum(by_category[category] for category in categories)
        assert one_process.scores["mme", metric] == pytest.approx(expected)


def test_answers_and_bytes_are_those_of_device_and_edge(one_process, questions):
    device, edge = Device.from_pretrained("scenes-tiny"), Edge.from_pretrained("scenes-tiny")
    pixels = [make_scene("test", index)[1] for index in range(SCENES)]
    packets = [bytes(device.encode(picture, quality=4, tokens=64)) for picture in pixels]
    asked = {
        "realworldqa": [(packets[scene], q.prompt) for scene, q in questions["realworldqa"]],
        "mme": [
            (packets[scene], q.prompt.replace(" Please answer yes or no.", "") + MME_PROMPT)
            for scene, q in questions["mme"]
        ],
    }
    for task, pairs in asked.items():
        given = edge.answer_many(pairs, batch_size=4, max_new_tokens=16)
        assert one_process.answers[task] == [answer.text for answer in given]
        sent = [one for one in one_process.sent if one["task"] == task]
        assert [(one["doc_id"], one["bytes"]) for one in sent] == [
            (index, len(packet)) for index, (packet, _) in enumerate(pairs)
        ]
        assert {(one["pictures"], one["tokens"], one["quality"]) for one in sent} == {(1, 64, 4)}


def test_rates_stand_beside_the_scores(one_process):
    sizes = {
        task: [one["bytes"] for one in one_process.sent if task in (one["task"], "all")]
        for task in ("realworldqa", "mme")
    }
    sizes["all"] = sizes["realworldqa"] + sizes["mme"]
    assert one_process.rates == {
        task: {
            "requests": len(some),
            "bytes_mean": pytest.approx(sum(some) / len(some)),
            "bytes_p50": pytest.approx(np.median(some)),
            "bytes_p95": pytest.approx(np.quantile(some, 0.95)),
            "tokens_mean": 64,
        }
        for task, some in sizes.items()
    }
    in_results = one_process.results["throughput"]["avg_bytes_per_request"]
    assert in_results == pytest.approx(one_process.rates["all"]["bytes_mean"])
    assert one_process.results["config"]["model_backend"] == "eval.lmms.model.TofcChat (chat)"


def test_two_processes_and_the_simple_form_give_equal_scores(exported, one_process):
    """Eight and seven questions of RealWorldQA: the second process is padded, and that does not count."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    both = run(exported, exported / "two", [*torchrun, "-m", "lmms_eval"], "--force_simple")
    assert both.results["config"]["model_backend"] == "eval.lmms.model.TofcSimple (simple)"
    assert both.answers == one_process.answers
    assert both.scores == pytest.approx(one_process.scores)
    assert both.sent == one_process.sent
    assert both.rates == one_process.rates
    assert both.rates["realworldqa"]["requests"] == 15


def test_the_model_is_found_by_its_entry_point():
    from lmms_eval.models import get_model_manifest

    manifest = get_model_manifest("tofc")
    assert manifest.chat_class_path == "eval.lmms.model.TofcChat"
    assert manifest.simple_class_path == "eval.lmms.model.TofcSimple"
