"""RealWorldQA and MME in sweeps: their rows as pictures with questions, scored as lmms-eval scores them."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.rate.config import RateConfig
from eval.rate.data import SweepData, load_data
from eval.scenes.export import export_split
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tofc.config import load_yaml
from tofc.errors import ConfigError

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
    assert yes.form == "yes_no"
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
        assert [(q.form, q.prompt, q.truth) for q in example.questions] == [
            (q.form, q.prompt, q.answer) for q in expected
        ]
        for question in example.questions:
            assert question.score(question.truth) == (1, 1)
            assert question.score("nonsense") == (0, 1)


@pytest.mark.parametrize("name", ["eval-mme", "eval-realworldqa"])
def test_the_bundled_sweeps_differ_from_the_scenes_in_their_file_alone(name: str) -> None:
    config = load_yaml(name, RateConfig)
    assert {sender.points[0].system for sender in config.senders()} >= {"raw", "tofc", "jpeg", "avif"}
    assert config.headline == ("yes_no" if name == "eval-mme" else "choice")


def test_what_is_not_there_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no data/test"):
        data("MmeData", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="hf download --repo-type dataset lmms-lab-encoder/None"):
        load_data(SweepData("eval.rate.published:MmeData", {"source": "lmms-lab-encoder/None"}))
