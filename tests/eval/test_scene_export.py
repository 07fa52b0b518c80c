from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from eval.asking import export as sharing
from eval.scenes import export as exporting
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tests.eval.commands import evaluate
from tofc.errors import UserError

MME_NAMES = {"existence", "count", "position", "color", "OCR", "commonsense_reasoning"}


def files(out):
    return out / sharing.REAL_WORLD_QA / sharing.PARQUET, out / sharing.MME / sharing.PARQUET


def test_rows_carry_the_benchmarks_questions_and_the_picture():
    scene, pixels, _ = make_scene("test", 1)
    rows = exporting.scene_rows("test", 1)
    questions = benchmark_questions(scene)
    real, mme = rows[sharing.REAL_WORLD_QA], rows[sharing.MME]
    assert [(r["question"], r["answer"]) for r in real] == [
        (q.prompt, q.answer) for q in questions if q.form in ("choice", "free")
    ]
    assert [(r["question"], r["answer"]) for r in mme] == [
        (q.prompt, q.answer) for q in questions if q.form == "yes_no"
    ]
    for row in real + mme:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), pixels)
    for name, some in ((sharing.REAL_WORLD_QA, real), (sharing.MME, mme)):
        assert all(tuple(row) == sharing.COLUMNS[name] for row in some)


def test_mme_rows_come_in_pairs_of_one_id_under_mmes_own_category_names():
    pairs = {}
    for index in range(6):
        for row in exporting.scene_rows("test", index)[sharing.MME]:
            assert row["category"] in MME_NAMES
            assert row["question"].endswith(" Please answer yes or no.")
            pairs.setdefault((row["category"], row["question_id"]), []).append(row["answer"])
    assert len(pairs) > 20
    assert all(sorted(answers) == ["No", "Yes"] for answers in pairs.values())


def test_the_schema_says_which_column_is_a_picture():
    (text,) = sharing.features_metadata(sharing.COLUMNS[sharing.MME]).values()
    features = json.loads(text)["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["answer"] == {"dtype": "string", "_type": "Value"}
    assert tuple(features) == ("question_id", "image", "question", "answer", "category")


def test_without_pyarrow_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, said = evaluate("scenes", "export", "--out", tmp_path / "out", "--limit", 1)
    assert code == 2
    assert "pip install 'tofc[eval]'" in said
    assert not (tmp_path / "out").exists()


def test_nonsense_is_refused(tmp_path):
    with pytest.raises(UserError, match="train, validation"):
        list(exporting.export_split(tmp_path, "holiday", 1))
    with pytest.raises(UserError, match="at least 1"):
        list(exporting.export_split(tmp_path, "test", 0))


@pytest.fixture(scope="module")
def parquet():
    # Part of the `dev` extra; a release that does not fit the installed numpy fails with ImportError too.
    return pytest.importorskip("pyarrow.parquet", exc_type=ImportError)


@pytest.fixture(scope="module")
def exported(parquet, tmp_path_factory):
    out = tmp_path_factory.mktemp("export")
    assert evaluate("scenes", "export", "--out", out, "--limit", 5)[0] == 0
    return out


def test_the_files_have_the_published_schemas(parquet, exported):
    image = "struct<bytes: binary, path: string>"
    real, mme = (parquet.read_schema(path) for path in files(exported))
    assert {f.name: str(f.type) for f in real} == {
        "image": image, "image_path": "string", "question": "string", "answer": "string"
    }  # fmt: skip
    assert {f.name: str(f.type) for f in mme} == {
        "question_id": "string", "image": image, "question": "string", "answer": "string",
        "category": "string",
    }  # fmt: skip
    for schema in (real, mme):
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert list(features) == schema.names
        assert features["image"] == {"_type": "Image"}


def test_the_files_hold_all_rows_in_order_and_each_picture_once(parquet, exported):
    for path, name in zip(files(exported), sharing.COLUMNS, strict=True):
        rows = parquet.read_table(path).to_pylist()
        expected = [row for index in range(5) for row in exporting.scene_rows("test", index)[name]]
        assert rows == expected
        pictures = {row["image"]["path"]: len(row["image"]["bytes"]) for row in rows}
        assert path.stat().st_size < 1.2 * sum(pictures.values())


def test_an_export_that_is_cut_short_leaves_no_file(parquet, tmp_path):
    steps = exporting.export_split(tmp_path, "test", 3)
    assert next(steps) == 1
    steps.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_datasets_library_reads_the_pictures(exported):
    datasets = pytest.importorskip("datasets", reason="comes with the `eval` extra", exc_type=ImportError)
    real, _ = files(exported)
    rows = datasets.Dataset.from_parquet(str(real), cache_dir=str(exported / "cache"))
    assert np.array_equal(np.asarray(rows[0]["image"]), make_scene("test", 0)[1])
