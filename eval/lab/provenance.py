"""What answers depend on beside the settings of a run: weights and software."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tofc.config import CONFIG_NAME, resolve
from tofc.hub import fetch

_SOFTWARE = ("tofc", "torch", "transformers", "pillow", "pillow-jxl-plugin", "zstandard")


def software() -> dict[str, str | None]:
    """Versions of what answers and bytes depend on, None for what is not installed."""
    return {package: _version(package) for package in _SOFTWARE}


def checkpoint_fingerprint(source: str) -> str:
    """SHA-256 over every file of a checkpoint; of a base on the hub its commit stands for its files."""
    checkpoint = resolve(source)
    digest = hashlib.sha256()
    folders = [checkpoint.folder]
    if Path(checkpoint.base).is_dir():
        folders += [Path(checkpoint.base)]
    else:
        digest.update(f"{checkpoint.base}@{fetch(checkpoint.base, CONFIG_NAME).parent.name}".encode())
    files = {file.resolve(): file.relative_to(folder) for folder in folders for file in folder.rglob("*")}
    for file, name in sorted(files.items(), key=lambda item: str(item[1])):
        if file.is_file():
            digest.update(str(name).encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
