"""The benchmark on photographs: fixed, balanced questions with true answers; figures, data sets, exports."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from eval.asking.answering import PipelineAnswerer, SweepData, load_data
from eval.asking.export import MME, PARQUET, REAL_WORLD_QA
from eval.asking.question import Question
from eval.lab.rows import read_rows
from eval.lab.terminal import FEW_PICTURES
from eval.photos import __main__ as command_line
from eval.photos.accuracy import BLANK, PhotoAnswer
from eval.photos.benchmark import WAYS, Benchmark, existence_plan
from eval.photos.data import Commonest, PhotosData, open_photo, score
from eval.photos.facts import View
from eval.photos.records import Photo, PhotoObject, benchmark_photos, photographs_folder
from eval.photos.wordings import held_out_wordings
from tests.eval.commands import evaluate
from tests.eval.photo_sets import write_detections, write_lines
from tofc.errors import UserError

ROOMS = [{"qa": [{"question": "what is on the bed", "answer": "pillow"}]}] * 4 + [
    {"qa": [{"question": "what is near the wall", "answer": "night_stand"}]},
    {"qa": [{"question": "what is on the desk", "answer": "lamp, book"}]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    write_detections(root / "boxes", "test", 60, seed=1)
    write_lines(root / "rooms", "val", ROOMS)
    return root


@pytest.fixture(scope="module")
def benchmark_of(folder: Path) -> Benchmark:
    photos, taken = benchmark_photos("test", ["boxes", "rooms"], str(folder))
    assert taken == {"boxes": "test", "rooms": "val"}
    return Benchmark(photos)


@pytest.fixture(scope="module")
def questions(benchmark_of: Benchmark) -> list[list[Question]]:
    return [benchmark_of.questions(number) for number in range(len(benchmark_of.photos))]


def test_every_class_has_as_many_yes_as_no_in_every_way(questions: list[list[Question]]) -> None:
    answers: dict[tuple[str, str, bool], Counter[str]] = defaultdict(Counter)
    for question in (q for some in questions for q in some if q.category == "existence"):
        answers[question.subject, question.negatives, question.held_out][question.answer] += 1
    assert {way for _, way, _ in answers} == set(WAYS)
    assert len(answers) > 20
    assert all(given["Yes"] == given["No"] for given in answers.values())


def test_absent_classes_are_chosen_by_what_is_frequent_and_what_stands_beside() -> None:
    def view(number: int, *names: str) -> View:
        things = tuple(PhotoObject(name, (0.1, 0.1, 0.5, 0.5)) for name in names)
        return View(Photo("set", Path(f"{number}.png"), things, frozenset({"person", "dog", "bus", "cow"})))

    # Dogs stand beside people and cows beside nobody; a bus is rare.
    views = [view(n, "person", "dog") for n in range(8)]
    views += [view(8 + n, "person") for n in range(4)] + [view(12 + n, "cow") for n in range(12)]
    views += [view(24, "bus")]
    plan = [asked for asked in existence_plan(views) if asked.name == "dog" and not asked.there]
    near = [asked.picture for asked in plan if asked.way == "adversarial"]
    assert near
    assert set(near) <= set(range(8, 12))
    assert not any("dog" in views[asked.picture].present for asked in plan)


def test_questions_are_fixed_and_every_one_is_asked_in_a_new_wording_too(
    benchmark_of: Benchmark, questions: list[list[Question]]
) -> None:
    again = Benchmark(benchmark_of.photos)
    assert [again.questions(number) for number in range(8)] == questions[:8]
    kinds = {question.category for some in questions for question in some}
    assert {"existence", "choice", "count", "left/right", "top/bottom", "bigger", "list", "people"} <= kinds
    starts = tuple(w.partition("{")[0].lower().rstrip("?. ") for w in held_out_wordings("count"))
    for some in questions:
        facts = [
            Counter((q.category, q.subject, q.answer if q.form != "choice" else "") for q in some
                    if q.held_out == held_out and q.category != "people")
            for held_out in (False, True)
        ]  # fmt: skip
        assert facts[0] == facts[1]
        for question in some:
            if question.category == "count" and question.held_out:
                assert question.prompt.lower().startswith(starts)


def test_answers_are_scored_by_meaning_and_lists_by_precision_and_recall() -> None:
    things = (
        PhotoObject("couch", (0, 0, 0.5, 0.5)),
        PhotoObject("dog", (0.5, 0.5, 1, 1)),
        PhotoObject("cat", sure=False),
    )
    view = View(Photo("set", Path("a.png"), things, frozenset({"couch", "dog", "cat", "person"})))
    which = Question("free", "main", "What is this?", "couch")
    assert [score(view, which, given).right for given in ("A sofa.", "couch", "dog", "")] == [1, 1, 0, 0]
    side = Question("free", "left/right", "Where?", "left")
    assert [score(view, side, given).right for given in ("On the left.", "left", "right")] == [1, 1, 0]
    number = Question("free", "count", "How many?", "2")
    assert [score(view, number, given).right for given in ("Two", "2", "12")] == [1, 1, 0]
    own = Question("free", "people", "what is on the floor", "night stand")
    assert [score(view, own, given).right for given in ("night_stand", "Night stand.", "stand")] == [1, 1, 0]
    listing = Question("describe", "list", "What is in the picture?", "A couch and a dog.")
    found = score(
        view, listing, "A sofa, two people, a cat and a truck."
    )  # cat is unsure, truck not labelled
    assert (found.right, found.of, found.recalled, found.recallable) == (1, 2, 1, 2)
    nothing = score(view, listing, "")
    assert (nothing.right, nothing.of, nothing.recalled) == (0, 1, 0)


def test_the_commonest_answer_knows_the_first_two_words_of_people_s_questions() -> None:
    known = [Question("free", "people", f"how many {x}", "2") for x in "abc"]
    known += [Question("free", "people", f"what is {x}", "bed") for x in "abcd"]
    commonest = Commonest(known)
    asked = ("how many chairs", "What is there", "which colour")
    assert [commonest.answer(Question("free", "people", text, "?")) for text in asked] == ["2", "bed", "bed"]


class Knowing:
    """Knows the answers of a benchmark wherever it is shown a photograph, else says yes."""

    sizes: tuple[int, ...] = ()

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Question]]
    ) -> list[list[str]]:
        return [
            ["Yes" if image is BLANK else question.answer for question in some]
            for image, some in zip(images, questions, strict=True)
        ]


def test_the_accuracy_command_reports_both_wordings_and_the_blind_beside(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowing = Knowing()
    monkeypatch.setenv("TOFC_PHOTOS", str(folder))
    monkeypatch.setattr(command_line.answering, "answerer", lambda *_: knowing)
    monkeypatch.setattr(command_line, "replace", lambda answerer, sizes: answerer)
    target, every = tmp_path / "figures.json", tmp_path / "rows.parquet"
    asked = ["accuracy", "--sets", "boxes", "--sets", "rooms", "--json", target, "--rows", every]
    code, printed, _ = evaluate("photos", *asked)
    assert code == 0
    assert "existence, adversarial" in printed
    lines = {line["name"]: line for line in json.loads(target.read_text())["rows"]}
    assert all(line["accuracy"]["value"] == 1 for line in lines.values())
    existence = lines["existence"]
    assert existence["blind"] == pytest.approx(0.5)
    assert existence["commonest"] == pytest.approx(0.5)
    assert existence["yes"] == pytest.approx(0.5)
    assert existence["difference"]["value"] == 0
    assert lines["people's own"]["questions"] == 5
    assert lines["people's own"]["commonest"] == pytest.approx(0.8)
    assert lines["list, recall"]["blind"] == 0
    assert lines["people's own"]["pictures"] < FEW_PICTURES <= existence["pictures"]
    assert "5 (few)" in printed
    assert f"{existence['questions']} (few)" not in printed
    rows = read_rows(every, PhotoAnswer)
    assert sum(row.kind == "existence" and not row.held_out for row in rows) == existence["questions"]


def test_photographs_are_a_data_set_of_sweeps(folder: Path) -> None:
    options = {"split": "test", "sets": ["boxes"], "root": str(folder)}
    data = load_data(SweepData("eval.photos.data:PhotosData", options))
    example = data[3]
    assert len(data) == 60
    assert example.image.size == (96, 64)
    assert all(question.score(question.truth) == (1, 1) for question in example.questions)
    assert {question.form for question in example.questions} <= {"yes_no", "choice", "free"}
    assert len(PhotosData(**options, held_out=True)[3].questions) == 2 * len(example.questions)


def test_exports_have_the_columns_of_mme_and_realworldqa_and_pairs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOFC_PHOTOS", str(folder))
    assert evaluate("photos", "export", "--sets", "boxes", "--out", tmp_path, "--limit", 30)[0] == 0
    mme = pyarrow.parquet.read_table(tmp_path / MME / PARQUET).to_pylist()
    pairs: dict[str, list[str]] = defaultdict(list)
    for row in mme:
        pairs[row["question_id"]].append(row["answer"])
        assert row["question"].endswith("Please answer yes or no.")
    assert all(sorted(answers) == ["No", "Yes"] for answers in pairs.values())
    assert {row["category"] for row in mme} == {"existence", "count", "position"}
    real = pyarrow.parquet.read_table(tmp_path / REAL_WORLD_QA / PARQUET).to_pylist()
    assert {"A", "B", "C", "D"} & {row["answer"] for row in real}
    assert all(row["image"]["bytes"][:4] == b"\x89PNG" for row in real)


def test_what_is_missing_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOFC_PHOTOS", str(folder))
    code, _, said = evaluate("photos", "accuracy", "--sets", "nowhere")
    assert code == 2
    assert "instances_val.json" in said
    code, printed, _ = evaluate("photos", "show", 1, "--sets", "boxes")
    assert code == 0
    assert "[yes_no/existence]" in printed


@pytest.fixture(scope="module")
def photographs() -> Path:
    try:
        return photographs_folder()
    except UserError as error:
        pytest.skip(str(error))


def test_real_photographs_ask_of_voc_only_what_is_labelled_there(photographs: Path) -> None:
    photos, _ = benchmark_photos("val", ["voc", "coco", "daquar"])
    benchmark = Benchmark(photos)
    for number, photo in list(enumerate(photos))[:60]:
        assert photo.file.exists()
        for question in benchmark.questions(number):
            if question.category == "existence":
                assert question.subject in photo.labelled
                assert (question.subject in benchmark.views[number].present) == (question.answer == "Yes")


def test_the_pipeline_answers_about_photographs_uncoded_and_through_packets(folder: Path) -> None:
    answerer = PipelineAnswerer.from_pretrained("scenes-tiny", tokens=16, quality=4)
    photos, _ = benchmark_photos("test", ["boxes"], str(folder))
    benchmark = Benchmark(photos)
    asked = benchmark.questions(0)[:2]
    (answers,) = answerer.answer([open_photo(photos[0])], [asked])
    assert all(answers)
    assert answerer.sizes[0] > 0
