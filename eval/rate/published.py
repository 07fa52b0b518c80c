"""RealWorldQA, MME, MMBench and SEED-Bench as data sets of sweeps, prompted and scored as in lmms-eval."""

from __future__ import annotations

import base64
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image

from eval.asking.answering import AskedPicture, ScoredQuestion
from tofc.errors import ConfigError
from tofc.images import open_image

MAX_NEW_TOKENS = 16  # of all tasks
LETTERS = ("A", "B", "C", "D")
ROTATED = (
    1_000_000  # MMBench's index of a question whose options are rotated is the question's plus multiples
)


class PublishedData:
    """One split of a data set, read from a folder or the hub; rows of one `key` are one picture."""

    task: str  # module of lmms-eval's functions
    lmms_task: str
    hub: str
    key: str
    files: tuple[str, ...] = ("data/test-*.parquet",)

    def __init__(self, source: str | None = None) -> None:
        """`source` is a folder with files of the names `files`, or a data set of the hub; else `hub`."""
        source = source or self.hub
        folder = _folder(source, self.files)
        files = sorted(file for pattern in self.files for file in folder.glob(pattern))
        if not files:
            raise ConfigError(f"{source} has no {' or '.join(self.files)}")
        self.table = self.chosen(pyarrow.concat_tables(_read(file) for file in files))
        self.rows: dict[str, list[int]] = {}
        for index, value in enumerate(self.table[self.key].to_pylist()):
            self.rows.setdefault(self.name_of(value), []).append(index)
        self.keys = list(self.rows)
        self.name = f"{source}, {len(self.keys)} pictures"
        self.functions = _task_functions(self.task)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> AskedPicture:
        """All questions about picture `index`, in the order of the file."""
        key = self.keys[index]
        docs = self.table.take(self.rows[key]).to_pylist()
        return AskedPicture(key, _image(docs[0]["image"]), tuple(self.asked(doc) for doc in docs))

    def document(self, number: int) -> tuple[str, int]:
        """Picture and question of a row of the split, as lmms-eval numbers its documents."""
        name = self.name_of(self.table[self.key][number].as_py())
        return name, self.rows[name].index(number)

    def chosen(self, table: pyarrow.Table) -> pyarrow.Table:
        """The rows that belong to the benchmark."""
        return table

    def name_of(self, value: Any) -> str:
        """The picture's name, from the value of `key`."""
        return str(value)

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """The question of a row."""
        raise NotImplementedError  # each benchmark words its own


class MmeData(PublishedData):
    """MME: yes/no questions in pairs of one question id, in the categories of the benchmark."""

    task, key = "lmms_eval.tasks.mme.utils", "question_id"
    lmms_task = "mme"
    hub = "lmms-lab-encoder/MME"
    post_prompt = "\nAnswer the question using a single word or phrase."

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """A yes/no question of perception or cognition; right where MME finds the label at the start."""
        prompt = self.functions.mme_doc_to_text(doc, {"pre_prompt": "", "post_prompt": self.post_prompt})
        score = functools.partial(_score, self.functions.mme_process_results, doc)
        perceived = doc["category"] in self.functions.eval_type_dict["Perception"]
        form = "perception" if perceived else "cognition"
        return ScoredQuestion(form, doc["category"], prompt, doc["answer"], MAX_NEW_TOKENS, score)


class RealWorldQaData(PublishedData):
    """RealWorldQA: multiple choice and short answers, by exact match after lmms-eval's extraction."""

    task, key = "lmms_eval.tasks.realworldqa.utils", "image_path"
    lmms_task = "realworldqa"
    hub = "lmms-lab-encoder/RealWorldQA"

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """A question whose category is told by its answer: a letter is a choice, words are free."""
        prompt = self.functions.realworldqa_doc_to_text(doc, {"pre_prompt": "", "post_prompt": ""})
        category = "choice" if doc["answer"].strip().upper() in LETTERS else "free"
        score = functools.partial(_score, self.functions.realworldqa_process_results, doc)
        return ScoredQuestion("exact_match", category, prompt, doc["answer"], MAX_NEW_TOKENS, score)


class MmBenchData(PublishedData):
    """MMBench, English development split: choices, asked once for each rotation of the options.

    `source` holds Parquet files in the schema of lmms-lab/MMBench, or OpenCompass' MMBench_DEV_EN_V11.tsv (or
    another version). With `score: circular` a question is right where all its rotations are.
    """

    task, key = "lmms_eval.tasks.mmbench.en_utils", "index"
    lmms_task = "mmbench_en_dev"
    hub = "lmms-lab-encoder/MMBench"
    files = ("en/dev-*.parquet", "MMBench_DEV_EN*.tsv")
    post_prompt = "\nAnswer with the option's letter from the given choices directly."

    def name_of(self, value: Any) -> str:
        """Rotations of one question are one picture."""
        return str(int(value) % ROTATED)

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """A choice, extracted from the answer as MMBench's own evaluation does without a judge."""
        doc = {"L2-category": doc.get("l2-category", doc.get("L2-category", "")), "source": "", **doc}
        doc = {"split": "dev", **doc, **{c: doc.get(c) or "nan" for c in LETTERS}}
        prompt = self.functions.mmbench_doc_to_text(doc, {"post_prompt": self.post_prompt})
        options = {c: doc[c] for c in LETTERS if doc[c] != "nan"}
        infer = self.functions.mmbench_evaluator.can_infer

        def score(answer: str) -> tuple[int, int]:
            return int(infer(answer, dict(options)) == doc["answer"]), 1

        return ScoredQuestion("choice", str(doc["category"]), prompt, doc["answer"], MAX_NEW_TOKENS, score)


class SeedBenchData(PublishedData):
    """SEED-Bench's questions about images (not those about videos), with four choices each."""

    task, key = "lmms_eval.tasks.seedbench.utils", "question_id"
    lmms_task = "seedbench"
    hub = "lmms-lab-encoder/SEED-Bench"

    def chosen(self, table: pyarrow.Table) -> pyarrow.Table:
        """The rows about images."""
        return table.filter(pyarrow.compute.equal(table["data_type"], "image"))

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """A choice by the first letter of the answer."""

        def score(answer: str) -> tuple[int, int]:
            found = self.functions.seed_process_result(doc, [answer])["seed_all"]
            return int(found["pred"].lower().strip() == found["answer"].lower().strip()), 1

        prompt = self.functions.seed_doc_to_text(doc)
        category = str(doc["question_type_id"])
        return ScoredQuestion("choice", category, prompt, doc["answer"], MAX_NEW_TOKENS, score)


def _read(file: Path) -> pyarrow.Table:
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file)
    csv = pyarrow.csv
    return csv.read_csv(
        file,
        csv.ReadOptions(block_size=1 << 28),  # a picture is one field
        csv.ParseOptions(delimiter="\t", newlines_in_values=True),
        csv.ConvertOptions(column_types={"index": pyarrow.int64(), "image": pyarrow.string()}),
    )


def _image(held: Any) -> Image.Image:
    """A picture as data sets hold it: a struct with its bytes, a list of these, or base64."""
    held = held[0] if isinstance(held, list) else held
    data = base64.b64decode(held) if isinstance(held, str) else held["bytes"]
    return open_image(data)


def _score(process_results: Callable[..., Any], doc: dict[str, Any], answer: str) -> tuple[int, int]:
    (score,) = process_results(doc, [answer]).values()
    return round(score["score"] if isinstance(score, dict) else score), 1


def _folder(source: str, files: tuple[str, ...]) -> Path:
    """The folder itself, or the hub's copy of these files."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, repo_type="dataset", allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{source} is no folder, and the hub does not give it ({' '.join(str(error).split())}); download "
            f"it where there is a network: hf download --repo-type dataset {source} --local-dir {source}"
        ) from error


def _task_functions(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"prompts and scores are lmms-eval's ({error}): pip install 'tofc[eval]'"
        ) from error
