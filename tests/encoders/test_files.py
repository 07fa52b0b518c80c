"""Files of checkpoints: the hub's cache comes first, and what is torn, cut or a pointer is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from encoders import files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sharded(folder: Path) -> Path:
    """A model of two tensors in two files, with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("a", "b"), 1):
        save_file({name: torch.full((2,), float(number))}, folder / f"model-{number}.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / files.INDEX).write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub id whose sharded model is in the cache; whoever asks the hub fails."""
    repository = tmp_path / "models--somebody--model"
    sharded(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))

    def asked(*names: object, **options: object) -> None:
        raise AssertionError(f"the hub was asked for {names}, {options}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", asked)
    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    return "somebody/model"


def test_a_complete_cache_is_enough(cached: str) -> None:
    assert {name: value.tolist() for name, value in files.read_tensors(cached, lambda name: True)} == {
        "a": [1.0, 1.0], "b": [2.0, 2.0],
    }  # fmt: skip
    folder = files.small_files(cached)
    assert files.read_json(folder / "config.json") == {"model_type": "x"}


def test_the_rest_of_a_model_comes_from_the_commit_that_is_there(
    cached: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def download(source: str, name: str, revision: str | None = None) -> str:
        asked.append((source, name, revision))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert files.find(cached, "family.json") == tmp_path / "family.json"
    assert asked == [(cached, "family.json", COMMIT)]


def test_what_is_fetched_is_said_before(
    cached: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files._say_once.cache_clear()
    said: list[str] = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: said.append(caplog.text) or "x")
    files.find(cached, "more.json")
    assert cached in said[0]


def test_only_files_with_something_wanted_are_opened(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "model-2.safetensors").unlink()
    assert [name for name, _ in files.read_tensors(folder, lambda name: name == "a")] == ["a"]
    with pytest.raises(FileNotFoundError, match=r"has no model-2\.safetensors"):
        list(files.read_tensors(folder, lambda name: True))


@pytest.mark.parametrize(
    "content, message",
    [(POINTER, "git lfs pull"), (b"{", "not JSON"), (b"", "not JSON"), (b"[1]", "keys and values"),
     (b"\xff\xfe\x00", "not JSON"), (b"[" * 100_000, "not JSON"),
     (b"{\"a\": " + b"9" * 5000 + b"}", "not JSON"),
     (b'{"text_config": {"attn_implementation": "somebody/kernel"}}', "a program")],
)  # fmt: skip
def test_json_that_is_none_says_so(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read_json(file)


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert files.read_json(file) == {"a": 1}


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content, message", [(POINTER, "git lfs pull"), (b'{"a": [1, 2', "not JSON")])
def test_cut_files_beside_the_weights_are_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    folder = sharded(tmp_path)
    assert files.small_files(folder) == folder
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        files.small_files(folder)


@pytest.mark.parametrize(
    "weight_map",
    [None, 5, [], {"a": 5}, {"a": "../other.safetensors"}, {"a": "x\0.safetensors"}, {"a": "x" * 5000}],
)
def test_an_index_that_leads_nowhere_is_refused(tmp_path: Path, weight_map: object) -> None:
    folder = sharded(tmp_path)
    (folder / files.INDEX).write_text(json.dumps({} if weight_map is None else {"weight_map": weight_map}))
    with pytest.raises(ValueError, match="weight_map"):
        list(files.read_tensors(folder, lambda name: True))


@pytest.mark.parametrize(
    "content, message", [(POINTER, "git lfs pull"), (b"", "damaged"), (b"x" * 99, "damaged")]
)
def test_damaged_weights_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    folder = sharded(tmp_path)
    (folder / "model-1.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model-1\.safetensors.*{message}"):
        list(files.read_tensors(folder, lambda name: True))


@pytest.mark.parametrize("source", ["no\0where", "x" * 5000, "a/b/c", "../.."])
def test_what_is_no_name_is_asked_of_nobody(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.fetch(source, "config.json")
