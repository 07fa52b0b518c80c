"""Instruction data in LLaVA-1.5's form: streamed, shuffled, split, and clear about what is wrong with it."""

from __future__ import annotations

import gc
import json
import logging
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tofc
from tofc.training.data import Turn, load_corpus, picture_batches, resize
from tofc.training.json_rows import read_row, scan_rows
from tofc.training.llava import LlavaCorpus, UnusableRow, turns_of

SIZE = 8


def human(value: str) -> dict[str, str]:
    return {"from": "human", "value": value}


def gpt(value: str) -> dict[str, str]:
    return {"from": "gpt", "value": value}


def picture_row(number: int, image: str | None = None) -> dict[str, Any]:
    """As published: the placeholder first or last, ids of both types."""
    question = f'What is "{number}"?\nAnswer briefly, é 東 \U0001f600.'
    asked = f"<image>\n{question}" if number % 2 else f"{question}\n<image>"
    return {
        "id": number if number % 3 else f"{number:012d}",
        "image": image or f"coco/train2017/{number:012d}.jpg",
        "conversations": [human(asked), gpt(f"Number {number}."), human("Sure?"), gpt("Yes \\ of course")],
    }


def text_row(number: int) -> dict[str, Any]:
    return {"id": f"sg_{number}", "model": "", "conversations": [human(f"Say {number}."), gpt(str(number))]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures in the places that `picture_row` names."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "coco/train2017").mkdir(parents=True)
    for number in range(40):
        Image.new("RGB", (20, 10), (number, 255 - number, 7)).save(
            folder / f"coco/train2017/{number:012d}.jpg", quality=95
        )
    return folder


@pytest.fixture
def corpus_of(tmp_path: Path, images: Path) -> Callable[..., LlavaCorpus]:
    """Writes rows as one JSON array and opens it."""

    def build(rows: list[Any], **options: Any) -> LlavaCorpus:
        path = tmp_path / "mix.json"
        path.write_text(json.dumps(rows))
        return LlavaCorpus(path, images, **{"size": SIZE, "validation": 0.0, **options})

    return build


def answers(corpus: LlavaCorpus, indices: range, seed: int = 0, split: str = "train") -> list[str]:
    return [corpus.picture(split, index, seed).turns[0].answer for index in indices]


# -- rows of a large file --

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(
    st.lists(st.dictionaries(st.text(max_size=6), values, max_size=4), max_size=6),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from([None, 1, "lines"]),
    st.booleans(),
)
def test_rows_are_found_across_chunk_borders(tmp_path_factory, rows, chunk, escaped, layout, mark) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.json"
    if layout == "lines":
        rows = rows or [{}]
        text = "\r\n".join(json.dumps(row, ensure_ascii=escaped) for row in rows)
    else:
        text = f"\n {json.dumps(rows, ensure_ascii=escaped, indent=layout)}\t\n"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8", "surrogatepass"))
    if not escaped and any("\ud800" <= c <= "\udfff" for c in text):
        return  # such text is no UTF-8; json.dumps writes it only escaped
    found = list(scan_rows(path, chunk))
    assert [row.value for row in found] == rows
    assert [row.number for row in found] == list(range(len(rows)))
    with path.open("rb") as file:
        assert [read_row(file, row.start, row.length) for row in found] == rows


def test_a_long_file_is_scanned_in_little_memory(tmp_path: Path, images: Path) -> None:
    """20 MB in 10,000 rows; what stays is 16 bytes a row, what passes through is a window."""
    path = tmp_path / "mix.json"
    padding = "An answer that goes on and on, é 東. " * 50
    with path.open("w", encoding="utf-8") as file:
        for number in range(10_000):
            row = picture_row(number, f"coco/train2017/{number % 40:012d}.jpg")
            row["conversations"][3]["value"] += padding
            file.write(("," if number else "[") + json.dumps(row, ensure_ascii=False))
        file.write("]")
    assert path.stat().st_size > 20e6
    tracemalloc.start()
    corpus = LlavaCorpus(path, images, SIZE, validation=0.0)
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert corpus.num_pictures("train") == 10_000
    assert kept < 16 * 10_000 + 100_000
    assert peak < 5e6
    assert sorted(answers(corpus, range(10_000)))[:2] == ["Number 0.", "Number 1."]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no list of rows: give a JSON array"),
        ("3", "no list of rows"),
        ("[", "row 0, byte 1: no JSON .*ends with the file"),
        ('[{"a": 1}', r"row 1, byte 9: the file ends where ',' or ']' should be"),
        ('[{"a": 1} {"a": 2}]', r"row 1, byte 10: '\{' stands where"),
        ('[{"a": 1},]', "row 1, byte 10: no JSON"),
        ('[{"a": 1}, 7]', r"row 1, byte 11: is a int; a row is an object"),
        (
            '[{"a": 1}, {"b": }' + " " * 50 + "]",
            r"row 1, byte 11: no JSON \(Expecting value, 6 characters on",
        ),
        ('[{"é": 1}, {"b": "x', r"row 1, byte 12: no JSON \(Unterminated"),
        ('[{"a": 1}] []', "row 1, byte 11: stands behind the end"),
        ('{"a": 1}\n{"a":\n', "row 1, byte 9: no JSON"),
        ('[{"a": ' + "[" * 100_000, "row 0, byte 1: objects are nested too deeply"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(tofc.UserError, match=message):
        list(scan_rows(path, chunk=16))


def test_a_fault_in_the_middle_does_not_read_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, {"b": nil}' + ', {"a": 1}' * 1_000_000 + "]")
    tracemalloc.start()
    with pytest.raises(tofc.UserError, match="row 1, byte 11"):
        list(scan_rows(path, chunk=1000))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_files_in_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes('[{"a": "é"}]'.encode("latin-1"))
    with pytest.raises(tofc.UserError, match=r"not UTF-8.*save it as UTF-8"):
        list(scan_rows(path))
    with pytest.raises(tofc.UserError, match="cannot be read"):
        list(scan_rows(tmp_path / "none.json"))


# -- conversations --


def test_a_row_becomes_one_conversation(corpus_of, images: Path) -> None:
    corpus = corpus_of([picture_row(3), text_row(4)])
    examples = {e.turns[0].category: e for e in (corpus.picture("train", index, 0) for index in range(2))}
    shown, text = examples["coco"], examples["text"]
    assert shown.turns == (
        Turn('What is "3"?\nAnswer briefly, é 東 \U0001f600.', "Number 3.", "coco"),
        Turn("Sure?", "Yes \\ of course", "coco", continues=True),
    )
    pixels = np.array(Image.open(images / shown.image))
    np.testing.assert_array_equal(shown.pixels, resize(pixels, SIZE))
    assert text.pixels is None
    assert text.turns == (Turn("Say 4.", "4", "text"),)


def test_the_placeholder_is_taken_out_wherever_it_stands() -> None:
    for value in ("<image>\nHow many?", "How many?\n<image>", "<image> How many?", "How many?<image>"):
        assert turns_of([human(value), gpt("2")], "a.jpg", "")[0].prompt == "How many?"


@pytest.mark.parametrize(
    "said, kept",
    [
        ([gpt("Hello."), human("a"), gpt("b")], ["b"]),
        ([human("a"), gpt("b"), human("c")], ["b"]),
        ([human("a"), gpt("b"), human("c"), gpt(""), human("d"), gpt("e")], ["b"]),
        ([human("a"), gpt(" b\n")], ["b"]),
    ],
)
def test_published_quirks(said, kept: list[str]) -> None:
    assert [turn.answer for turn in turns_of(said, None, "")] == kept


@pytest.mark.parametrize(
    "said, image, reason",
    [
        ([human("a"), human("b"), gpt("c"), gpt("d")], None, "two turns of one speaker"),
        ([human("a"), gpt("")], None, "no answer"),
        ([], None, "no answer"),
        ([gpt("a")], None, "no answer"),
        ([human("<image>\na"), gpt("b")], None, "where there is no picture"),
        ([human("a"), gpt("<image>")], "a.jpg", "where there is no picture"),
    ],
)
def test_rows_that_teach_nothing(said, image: str | None, reason: str) -> None:
    with pytest.raises(UnusableRow, match=reason):
        turns_of(said, image, "")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"conversations": None}, 'row 1, byte .*"conversations" is None; give a list'),
        ({"conversations": ["hi"]}, 'turn 0 is \'hi\'; give {"from": "human" or "gpt"'),
        ({"conversations": [human("a"), {"from": "assistant", "value": "b"}]}, "turn 1 is .*assistant"),
        ({"conversations": [{"from": "human", "value": 3}]}, "turn 0 is"),
        ({"image": ["a.jpg", "b.jpg"]}, "one name below the images folder"),
    ],
)
def test_malformed_rows_are_named(corpus_of, change: dict[str, Any], message: str) -> None:
    with pytest.raises(tofc.UserError, match=message) as fault:
        corpus_of([picture_row(1), {**picture_row(2), **change}])
    text = json.dumps([picture_row(1), {**picture_row(2), **change}])
    assert f"row 1, byte {text.index('{', text.index('course'))}:" in str(fault.value)


# -- order --


def test_every_epoch_has_every_row_once_in_its_own_order(corpus_of) -> None:
    corpus = corpus_of([picture_row(number) for number in range(40)])
    first, second = answers(corpus, range(40)), answers(corpus, range(40, 80))
    assert sorted(first) == sorted(second) == sorted(f"Number {number}." for number in range(40))
    assert first != second != answers(corpus, range(40), seed=1)
    assert first == answers(corpus, range(40))
    assert first != sorted(first)


def test_the_splits_share_no_picture_and_stay_where_they_are(corpus_of, images: Path) -> None:
    rows = [picture_row(number % 40) for number in range(120)] + [text_row(number) for number in range(80)]
    corpus = corpus_of(rows, validation=0.3)
    sizes = {split: corpus.num_pictures(split) for split in ("train", "validation")}
    assert sum(sizes.values()) == 200
    assert 20 < sizes["validation"] < 100
    seen = {split: answers(corpus, range(size), 0, split) for split, size in sizes.items()}
    assert not set(seen["train"]) & set(seen["validation"])
    fewer = corpus_of(rows[:-80], validation=0.3)
    kept = set(answers(fewer, range(fewer.num_pictures("validation")), 0, "validation"))
    assert kept == {answer for answer in seen["validation"] if answer.startswith("Number")}
    with pytest.raises(tofc.UserError, match="splits are train, validation"):
        corpus.picture("test", 0, 0)
    with pytest.raises(tofc.UserError, match="validation is empty: raise validation"):
        corpus_of(rows).picture("validation", 0, 0)


def test_loader_processes_give_what_the_corpus_gives(corpus_of) -> None:
    corpus = corpus_of([picture_row(number) for number in range(6)] + [text_row(6), text_row(7)])
    expected = [corpus.picture("train", index, 5) for index in range(8)]
    loaded = [
        e for batch in picture_batches(corpus, "train", [range(0, 3), range(3, 8)], 5, 1) for e in batch
    ]
    for one, other in zip(loaded, expected, strict=True):
        assert one.turns == other.turns
        assert (one.pixels is None) == (other.pixels is None)
        assert one.pixels is None or np.array_equal(one.pixels, other.pixels)


# -- what is missing or broken --


def test_missing_images_are_named_and_skipped(corpus_of, tmp_path: Path, caplog) -> None:
    rows = [picture_row(number) for number in range(30, 48)] + [text_row(1), {"conversations": [human("a")]}]
    report = tmp_path / "run" / "skipped.tsv"
    with caplog.at_level(logging.WARNING):
        corpus = corpus_of(rows, report=report)
    assert corpus.num_pictures("train") == 11
    (message,) = [record.getMessage() for record in caplog.records]
    assert "9 rows skipped (8 x missing images, 1 x no answer)" in message
    assert "row 10: missing image coco/train2017/000000000040.jpg" in message
    lines = [line.split("\t") for line in report.read_text().splitlines()]
    assert [line[0] for line in lines] == [*map(str, range(10, 18)), "19"]
    assert lines[7][2] == "missing image coco/train2017/000000000047.jpg"
    assert list(report.parent.iterdir()) == [report]


def test_no_row_at_all(corpus_of, tmp_path: Path, images: Path) -> None:
    with pytest.raises(
        tofc.UserError, match=r"no row to train on \(1 were skipped; the first: row 0: missing"
    ):
        corpus_of([picture_row(99)])
    with pytest.raises(tofc.UserError, match="is no folder"):
        LlavaCorpus(tmp_path / "mix.json", images / "nowhere")
    with pytest.raises(tofc.UserError, match="validation is 1"):
        LlavaCorpus(tmp_path / "mix.json", images, validation=1.0)


def test_unreadable_images_are_named_and_replaced(tmp_path: Path, images: Path, corpus_of, caplog) -> None:
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    rows = [picture_row(number) for number in range(6)] + [picture_row(6, "broken.jpg")]
    corpus = corpus_of(rows)
    order = answers(corpus, range(7))
    answers(corpus, range(7, 21))
    again = [pickle.loads(pickle.dumps(corpus)).picture("train", i, 0).turns[0].answer for i in range(7)]
    assert order == again
    assert "Number 6." not in order
    assert len(set(order)) == 6
    (doubled,) = [answer for answer in set(order) if order.count(answer) == 2]
    place = order.index(doubled)
    assert doubled in (order[(place + 1) % 7], order[place - 1]), "the replacement is the next in the order"
    named = [record.getMessage() for record in caplog.records if "broken.jpg" in record.getMessage()]
    assert len(named) == 1, "told once, not in every epoch"
    alone = corpus_of([picture_row(6, "broken.jpg")])
    with pytest.raises(tofc.UserError, match="not one picture of train can be read"):
        alone.picture("train", 0, 0)


def exif_turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    return exif


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "CMYK", "LA", "1", "EXIF"])
def test_pictures_of_every_mode(tmp_path: Path, images: Path, corpus_of, mode: str) -> None:
    ramp = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).convert("RGB")
    name = f"mode_{mode}.tiff" if mode == "CMYK" else f"mode_{mode}.png"
    extra = {"exif": exif_turned()} if mode == "EXIF" else {}
    ramp.convert("RGB" if mode == "EXIF" else mode).save(images / name, **extra)
    pixels = corpus_of([picture_row(1, name)]).picture("train", 0, 0).pixels
    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels.dtype == np.uint8
    rows, columns = np.ptp(pixels[0].astype(int).mean(1)), np.ptp(pixels[0].astype(int).mean(0))
    assert (rows < columns) if mode == "EXIF" else (rows > columns), "the ramp runs down the picture"


def test_the_corpus_is_found_by_its_name(tmp_path: Path, images: Path) -> None:
    path = tmp_path / "mix.jsonl"
    path.write_text("\n".join(json.dumps(picture_row(number)) for number in range(5)) + "\n")
    options = {"path": str(path), "images": str(images), "size": SIZE, "validation": 0.0}
    corpus = load_corpus("tofc.training.llava:LlavaCorpus", **options)
    assert corpus.num_pictures("train") == 5
    path.write_text("\n" * path.stat().st_size)
    with pytest.raises(tofc.UserError, match="has changed since this run began"):
        corpus.picture("train", 0, 0)
