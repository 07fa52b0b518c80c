"""Files of a model that is a folder or a hub id, and reading only some of its tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from tofc.errors import CheckpointError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def fetch(source: str | Path, name: str) -> Path:
    """Path of the file `name` of a folder or of a hub repository (downloaded once, then cached).

    Raises CheckpointError when the file is not there, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        file = Path(source) / name
        if not file.is_file():
            raise CheckpointError(f"{source} has no {name}: the checkpoint is not complete")
        return file
    try:
        return Path(hf_hub_download(str(source), name))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{source}: not in the hub's cache, and the hub cannot be reached. Download it where there is "
            f"a network (`hf download {source}`) and give the folder"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{source} has no {name} on the hub: not a checkpoint of this kind") from error
    except HFValidationError as error:
        raise CheckpointError(f"{str(source)!r} is neither a folder nor a hub id (owner/name)") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{source}: the hub refused {name}: {' '.join(str(error).split())}") from error


def fetch_all(source: str) -> Path:
    """Folder with every file of a hub repository."""
    try:
        return Path(snapshot_download(source))
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{source}: could not be downloaded: {' '.join(str(error).split())}") from error


def has_file(source: str | Path, name: str) -> bool:
    """Whether the folder or hub repository has a file of this name."""
    if Path(source).is_dir():
        return (Path(source) / name).is_file()
    try:
        hf_hub_download(str(source), name)
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise CheckpointError(f"{source}: the hub cannot be reached to look for {name}") from error
        return False
    return True


def read_tensors(
    source: str | Path, wanted: Callable[[str], bool], device: str | torch.device = "cpu"
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, tensor) of a safetensors checkpoint, reading no byte of what is not `wanted`.

    Of a sharded checkpoint only the shards that hold a wanted tensor are opened, or downloaded.
    """
    if has_file(source, _SINGLE):
        shards = [_SINGLE]
    else:
        weight_map = json.loads(fetch(source, _INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({shard for name, shard in weight_map.items() if wanted(name)})
    for shard in shards:
        file = fetch(source, shard)
        try:
            with safe_open(file, framework="pt", device=str(device)) as tensors:
                for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                    if wanted(name):
                        yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged or no safetensors file: {error}") from error
