"""Files of a model that is a folder or a hub id, the hub's cache first; reading only some of its tensors.

The only reader of checkpoints in the project. Nothing is imported here that is not needed, and no file is
fetched that the cache has: what the hub has since then is had by `hf download`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = [
    "fetch",
    "fetch_all",
    "find",
    "is_hub_id",
    "open_tensors",
    "read_json",
    "read_tensors",
    "small_files",
    "weight_files",
]

_log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_OWN_FOLDERS = ("runs", "configs", "tofc", ".", "..")  # first folders of paths that are no owner on the hub
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIG, _TOKENIZER = "config.json", "tokenizer_config.json"
_SMALL = ("*.json", "*.jinja", "*.txt", "*.model")  # all that is no weights
_RUN = ("attn_implementation", "_attn_implementation")
_LFS = b"version https://git-lfs.github.com/spec/"


def fetch(source: str | os.PathLike[str], name: str, revision: str | None = None) -> Path:
    """Path of a file of a folder or of a hub repository.

    Raises FileNotFoundError where it is not there, or neither in the cache nor within reach.
    """
    found = find(source, name, revision)
    if found is None:
        raise FileNotFoundError(f"{source} has no {name}: the checkpoint is not complete")
    return found


def find(source: str | os.PathLike[str], name: str, revision: str | None = None) -> Path | None:
    """As `fetch`, None where folder or repository has no such file."""
    known, found = _in_cache(source, name, revision)
    if known:
        return found
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    _say_once(str(source))
    # The rest of a model comes from the same commit as what the cache has of it.
    _, config = _in_cache(source, _CONFIG, revision)
    with _hub(source):
        try:
            commit = config.parent.name if config else revision
            return Path(hf_hub_download(str(source), name, revision=commit))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None


@cache
def _say_once(source: str) -> None:
    _log.warning("%s is not whole in the hub's cache: fetching it (HF_HUB_OFFLINE=1 would not)", source)


def small_files(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Folder with what stands beside the weights of a model: configs, processor, tokenizer, template.

    Raises FileNotFoundError where it cannot be had, ValueError where one of its JSON files is cut short.
    """
    folder = Path(source) if os.path.isdir(source) else fetch(source, _CONFIG, revision).parent
    if not os.path.isdir(source) and not (folder / _TOKENIZER).is_file():
        from huggingface_hub import snapshot_download

        with _hub(source):
            snapshot_download(str(source), revision=folder.name, allow_patterns=list(_SMALL))
    for file in folder.glob("*.json"):
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 64))
            if not stream.read().rstrip().endswith((b"}", b"]")):
                read_json(file)  # says what is wrong
    return folder


def fetch_all(source: str) -> Path:
    """Folder with every file of a hub repository."""
    from huggingface_hub import snapshot_download

    with _hub(source):
        return Path(snapshot_download(source))


def is_hub_id(source: str | os.PathLike[str]) -> bool:
    """Whether this may be asked of the hub: owner/name, but never a path such as runs/NAME, which somebody
    might register there."""
    text = str(source)
    return _HUB_ID.fullmatch(text) is not None and text.split("/")[0] not in _OWN_FOLDERS


def read_json(file: Path) -> dict[str, Any]:
    """The keys and values of a JSON file; ValueError, with the remedy, for what is none.

    Also where it names a program of the hub as its attention, which transformers would fetch and run.
    """
    programs: list[str] = []

    def look(values: dict[str, Any]) -> dict[str, Any]:
        programs.extend(str(values[key]) for key in _RUN if "/" in str(values.get(key)))
        return values

    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"), object_hook=look)
    except (ValueError, RecursionError) as error:
        raise_if_pointer(file)
        raise ValueError(f"{file} is not JSON ({str(error) or 'cut short'}): get the file again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__} where keys and values are due")
    if programs:
        raise ValueError(f"{file} names {programs[0][:200]!r}, a program, as its attention: take that out")
    return values


def raise_if_pointer(file: Path) -> None:
    """Raises ValueError for what stands for a large file in a clone without Git LFS."""
    with file.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise ValueError(f"{file} is a Git LFS pointer, not the file: run git lfs pull in its folder")


@contextmanager
def open_tensors(file: Path, device: str = "cpu", framework: str = "pt") -> Iterator[Any]:
    """A safetensors file, as `safetensors.safe_open` gives it; ValueError where it is damaged.

    framework: "pt" for tensors, "np" for arrays, which need no torch.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework=framework, device=device) as tensors:
            yield tensors
    except SafetensorError as error:
        raise_if_pointer(file)
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error


def weight_files(
    source: str | os.PathLike[str], wanted: Callable[[str], bool], revision: str | None = None
) -> dict[str, Path]:
    """The file that holds each wanted tensor of a checkpoint, by the tensor's name.

    Of a sharded checkpoint only the shards that hold one are fetched. Raises FileNotFoundError where weights
    are missing, ValueError where files are damaged.
    """
    single, index = (_in_cache(source, name, revision)[1] for name in (SINGLE, INDEX))
    if single is None and index is None:  # not in the cache yet, if it is a repository
        single = find(source, SINGLE, revision)
    if single is not None:
        with open_tensors(single, framework="np") as tensors:
            return {name: single for name in list(tensors.keys()) if wanted(name)}
    index = index or find(source, INDEX, revision)
    if index is None:
        raise FileNotFoundError(
            f"{source}: neither {SINGLE} nor {INDEX} is there; pickled weights (.bin, .pt) are not read: "
            "load them with transformers and write them with save_pretrained"
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(name) for name in weight_map.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files beside it: get the file again")
    chosen = {name: shard for name, shard in weight_map.items() if wanted(name)}
    files = {shard: fetch(source, shard, revision) for shard in sorted(set(chosen.values()))}
    return {name: files[shard] for name, shard in chosen.items()}


def read_tensors(
    source: str | os.PathLike[str], wanted: Callable[[str], bool], device: str | torch.device = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, tensor) of a safetensors checkpoint, reading no byte of what is not wanted.

    Raises what `weight_files` raises.
    """
    by_file: dict[Path, list[str]] = {}
    for name, file in weight_files(source, wanted).items():
        by_file.setdefault(file, []).append(name)
    for file, names in by_file.items():
        with open_tensors(file, str(device)) as tensors:
            there = set(tensors.keys())
            for name in names:
                if name not in there:
                    raise ValueError(f"{file} holds no {name}, as the index beside it says: get both again")
                yield name, tensors.get_tensor(name)


def _is_file_name(name: Any) -> bool:
    return (
        isinstance(name, str) and len(name) <= 255 and re.fullmatch(r"[\w.-]+\.safetensors", name) is not None
    )


def _in_cache(source: str | os.PathLike[str], name: str, revision: str | None) -> tuple[bool, Path | None]:
    """Whether folder or cache know of a file, and where it is; None where they know that there is none."""
    if os.path.isdir(source):
        file = Path(source, name)
        return True, file if file.is_file() else None
    if not is_hub_id(source):
        raise FileNotFoundError(f"{str(source)[:200]!r} is no folder here, and no hub id (owner/name)")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(source), name, revision=revision)
    return cached is not None, Path(cached) if isinstance(cached, str) else None


@contextmanager
def _hub(source: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what the hub's client raises into a FileNotFoundError that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{source} is no folder here, not in the hub's cache, and the hub cannot be reached. Download it "
            f"where there is a network (`hf download {source}`) and give the folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"{source} is no folder here, and the hub refuses it: {reason}") from error
