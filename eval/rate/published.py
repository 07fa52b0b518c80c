"""RealWorldQA and MME as data sets of sweeps, with the prompts and scores of lmms-eval's own tasks."""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image

from eval.rate.data import AskedPicture, ScoredQuestion
from tofc.errors import ConfigError

SPLIT_FILES = "data/test-*.parquet"
MAX_NEW_TOKENS = 16  # of both tasks
LETTERS = ("A", "B", "C", "D")


class _Published:
    """The test split of a data set, read from a folder or the hub; rows of one `key` are one picture."""

    task: str  # module of lmms-eval's functions
    key: str

    def __init__(self, source: str) -> None:
        """`source` is a folder with data/test-*.parquet, or a data set of the hub."""
        files = sorted(_folder(source).glob(SPLIT_FILES))
        if not files:
            raise ConfigError(f"{source} has no {SPLIT_FILES}")
        self.table = pyarrow.concat_tables(pyarrow.parquet.read_table(file) for file in files)
        self.rows: dict[str, list[int]] = {}
        for index, key in enumerate(self.table[self.key].to_pylist()):
            self.rows.setdefault(key, []).append(index)
        self.keys = list(self.rows)
        self.name = f"{source}, {len(self.keys)} pictures"
        self.functions = _task_functions(self.task)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> AskedPicture:
        """All questions about picture `index`, in the order of the file."""
        key = self.keys[index]
        docs = self.table.take(self.rows[key]).to_pylist()
        image = Image.open(io.BytesIO(docs[0]["image"]["bytes"])).convert("RGB")
        return AskedPicture(key, image, tuple(self.asked(doc) for doc in docs))

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """The question of a row."""
        raise NotImplementedError  # each benchmark words its own


class MmeData(_Published):
    """MME: yes/no questions in pairs of one question id, in the categories of the benchmark."""

    task, key = "lmms_eval.tasks.mme.utils", "question_id"
    post_prompt = "\nAnswer the question using a single word or phrase."

    def __init__(self, source: str = "lmms-lab-encoder/MME") -> None:
        super().__init__(source)

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """A yes/no question; right where MME finds the label in the answer's first characters."""
        prompt = self.functions.mme_doc_to_text(doc, {"pre_prompt": "", "post_prompt": self.post_prompt})
        score = functools.partial(_score, self.functions.mme_process_results, doc)
        return ScoredQuestion("yes_no", doc["category"], prompt, doc["answer"], MAX_NEW_TOKENS, score)


class RealWorldQaData(_Published):
    """RealWorldQA: multiple choice and short answers, by exact match after lmms-eval's extraction."""

    task, key = "lmms_eval.tasks.realworldqa.utils", "image_path"

    def __init__(self, source: str = "lmms-lab-encoder/RealWorldQA") -> None:
        super().__init__(source)

    def asked(self, doc: dict[str, Any]) -> ScoredQuestion:
        """A question whose form is told by its answer: a letter, or words."""
        prompt = self.functions.realworldqa_doc_to_text(doc, {"pre_prompt": "", "post_prompt": ""})
        form = "choice" if doc["answer"].strip().upper() in LETTERS else "free"
        score = functools.partial(_score, self.functions.realworldqa_process_results, doc)
        return ScoredQuestion(form, "all", prompt, doc["answer"], MAX_NEW_TOKENS, score)


def _score(process_results: Callable[..., Any], doc: dict[str, Any], answer: str) -> tuple[int, int]:
    (score,) = process_results(doc, [answer]).values()
    return round(score["score"] if isinstance(score, dict) else score), 1


def _folder(source: str) -> Path:
    """The folder itself, or the hub's copy of the test split."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, repo_type="dataset", allow_patterns=SPLIT_FILES))
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
