"""Configuration: frozen dataclasses read from YAML and JSON, and how models and configs are found by name."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from encoders.files import is_hub_id
from tofc.errors import CheckpointError, ConfigError
from tofc.writing import write_json

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
CODEC_WEIGHTS = "codec.safetensors"  # in floats, to go on training with; entropy names what codes
DEVICE_CONFIG = "device.json"  # of an exported device, which is no checkpoint
TILINGS = ("base", "anyres")
DEFAULT_MODEL = "photos-tiny"  # of every command that asks about any picture
MERGINGS = ("dpc_knn", "spread", "blocks")  # ways of `encoders.merging.cluster_tokens`
QUALITIES = range(1, 9)

_PACKAGE = Path(__file__).resolve().parent
ASSETS = _PACKAGE / "assets"
# An installation carries the configs inside the package; the source tree keeps them in their own room.
CONFIG_FOLDERS = (_PACKAGE / "_configs", _PACKAGE.parent / "configs")

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class MergingConfig:
    """How tokens are merged: `tokens` is the number K that travels, or "all"; `neighbours` is DPC-KNN's k.

    `way`: "dpc_knn", centres wherever density peaks are highest, as in the paper; "spread", one centre in
    each of K equal blocks of the picture; "blocks", the averages of these blocks.

    `ladder` has the numbers of tokens that go best with qualities 1 to 8 where a byte budget chooses both;
    empty for doubling from each quality to the next through the default quality and `tokens`.
    """

    tokens: int | str = 64
    neighbours: int = 5
    way: str = "dpc_knn"
    ladder: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.tokens != "all" and (not isinstance(self.tokens, int) or self.tokens < 1):
            raise ConfigError(f'merging.tokens is {self.tokens!r}; give a number of at least 1, or "all"')
        if self.way not in MERGINGS:
            raise ConfigError(f"merging.way is {self.way!r}; choose one of {', '.join(MERGINGS)}")
        if self.neighbours < 1:
            raise ConfigError(f"merging.neighbours is {self.neighbours}; give a number of at least 1")
        if self.ladder and (len(self.ladder) != len(QUALITIES) or list(self.ladder) != sorted(self.ladder)):
            raise ConfigError(
                f"merging.ladder is {list(self.ladder)}; give {len(QUALITIES)} numbers that do not fall"
            )
        if min(self.ladder, default=1) < 1:
            raise ConfigError(f"merging.ladder begins with {self.ladder[0]}; give numbers of at least 1")

    @staticmethod
    def renamed(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The keys of earlier checkpoints in today's words: `spread: true` is a way of merging."""
        if "way" in values or not isinstance(values.get("spread"), bool):
            return values
        others = {key: value for key, value in values.items() if key != "spread"}
        return {**others, "way": "spread" if values["spread"] else "dpc_knn"}


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint folder says about itself in `config.json`.

    `base` is the LLaVA-OneVision model: a folder inside the checkpoint, an absolute folder, or a hub id.
    `tiling` is "base" (one square tile a picture) or "anyres" (the stock grid of tiles as well).
    `default_quality` runs from 1 (fewest bytes) to 8. `adapters` names the folder of fine-tuning that is
    added to the base when it is read, None where the base is complete in itself; `family` the folder of
    branches of the language model, None where there is only the full model. `knows` says in a
    sentence or two, to whoever asks it something, what the model has learnt and what not.
    """

    format_version: int = FORMAT_VERSION
    knows: str = ""
    base: str = "base"
    tiling: str = "base"
    merging: MergingConfig = field(default_factory=MergingConfig)
    default_quality: int = 4
    adapters: str | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(
                f"format_version is {self.format_version}, this release reads {FORMAT_VERSION}: "
                "install the release of tofc that wrote the checkpoint, or save it again with this one"
            )
        if self.tiling not in TILINGS:
            raise ConfigError(f"tiling is {self.tiling!r}; choose one of {', '.join(TILINGS)}")
        if self.default_quality not in QUALITIES:
            raise ConfigError(f"default_quality is {self.default_quality}; choose 1 to {QUALITIES[-1]}")
        for key in ("base", "adapters", "family"):
            name = getattr(self, key) or "."
            if ".." in Path(name).parts or (Path(name).is_absolute() and key != "base"):
                raise ConfigError(f"{key} is {_shown(name)}, which leads out of the folder; name one inside")

    @staticmethod
    def renamed(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The keys of this release: earlier checkpoints also named the codec's files, under "codec"."""
        return {key: value for key, value in values.items() if key != "codec"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found: its folder, what its config says, where its base model is.

    `base` is a folder or a hub id. `has_codec` is false for a plain LLaVA-OneVision model, which can give
    features and answer about them, but code nothing.
    """

    name: str
    folder: Path
    config: CheckpointConfig
    base: str
    has_codec: bool

    @property
    def adapters(self) -> Path | None:
        """Where the fine-tuning of the base lies, None where there is none."""
        return None if self.config.adapters is None else self.folder / self.config.adapters

    @property
    def family(self) -> Path | None:
        """Where the branches of the language model lie, None where there are none."""
        return None if self.config.family is None else self.folder / self.config.family


def from_mapping(cls: type[T], values: Any, where: str) -> T:
    """Makes the dataclass `cls` out of a mapping; `where` names its origin in errors.

    Nested dataclasses take nested mappings; `cls.renamed`, where there is one, puts earlier keys into today's
    words. Raises ConfigError on an unknown key (listing the valid ones),
    a missing one and a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected keys and values for {cls.__name__}, found {_shown(values)}")
    values = getattr(cls, "renamed", dict)(values)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]  # cls is a dataclass
    unknown = [str(key) for key in values if key not in fields]
    if unknown:
        keys = "keys" if len(unknown) > 1 else "key"
        raise ConfigError(f"{where}: unknown {keys} {', '.join(unknown)}; valid are {', '.join(fields)}")
    absent = (dataclasses.MISSING, dataclasses.MISSING)
    required = [name for name, f in fields.items() if (f.default, f.default_factory) == absent]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    arguments = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValueError as error:  # the checks of dataclasses that other rooms own
        raise ConfigError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """One value as the type that its field declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast("type[Any]", hint), value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is {_shown(value)}; choose one of {', '.join(map(str, arguments))}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {_shown(value)}; give a list")
        if origin is tuple and arguments[-1:] != (Ellipsis,):
            if len(value) != len(arguments):
                raise ConfigError(f"{where} has {len(value)} entries; give {len(arguments)}")
            pairs = zip(arguments, value, strict=True)
            return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(pairs))
        return origin(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict or origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {_shown(value)}; give keys and values")
        key, entry = arguments
        return {_convert(key, k, where): _convert(entry, v, f"{where}.{k}") for k, v in value.items()}
    return _convert_plain(hint, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    faults = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            faults.append(str(error))
    raise ConfigError("; or ".join(faults))


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and not isinstance(value, bool):
        if isinstance(value, (int, float)):
            return float(value)
        # YAML 1.1 takes 1e-3 for a word: it wants 1.0e-3.
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
            return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} is {_shown(value)}; give a value of type {hint.__name__}")


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def load_yaml(path: str | Path, cls: type[T]) -> T:
    """Reads a YAML file into the dataclass `cls`; `path` is a file or the name of a bundled config.

    Raises ConfigError when there is no such file, when it is no YAML, and on the faults of `from_mapping`.
    """
    import yaml

    file = find_config(path)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a YAML file: {' '.join(str(error).split())}") from error
    return from_mapping(cls, {} if values is None else values, str(file))


def find_config(name: str | Path) -> Path:
    """The file that `name` means: a YAML file, or a bundled config by its name (`scenes-tiny`)."""
    file = Path(name)
    if file.is_file():
        return file
    for folder in CONFIG_FOLDERS:
        bundled = folder / f"{Path(name).name.removesuffix('.yaml')}.yaml"
        if str(name).removeprefix("configs/").removesuffix(".yaml") == bundled.stem and bundled.is_file():
            return bundled
    known = sorted({f.stem for folder in CONFIG_FOLDERS if folder.is_dir() for f in folder.glob("*.yaml")})
    raise ConfigError(
        f"no config {str(name)!r}: it is neither a file nor a bundled config ({', '.join(known) or 'none'})"
    )


def bundled_names() -> list[str]:
    """Names of the checkpoints that travel inside the package."""
    return sorted(p.name for p in ASSETS.iterdir() if (p / CONFIG_NAME).is_file()) if ASSETS.is_dir() else []


def resolve(src: str | Path) -> Checkpoint:
    """Finds the checkpoint that `src` means: a bundled name, a folder, or a hub id ("owner/name").

    A folder that exists comes first, then bundled names, then the hub. A plain LLaVA-OneVision model counts
    as a checkpoint without codec, tiled like the stock model. Raises CheckpointError if nothing is found.
    """
    text = str(src)
    if os.path.isdir(src):
        return _read_checkpoint(text, Path(src))
    if text in bundled_names():
        return _read_checkpoint(text, ASSETS / text)
    if not is_hub_id(text) or os.path.exists(src):
        raise CheckpointError(
            f"no checkpoint {_shown(text, most=400)}{_how_to_make(text)}. "
            f"Bundled: {', '.join(bundled_names()) or 'none'}. Or give a folder with a config.json, "
            "or a hub id such as owner/name"
        )
    from tofc.hub import fetch, fetch_all  # the hub's client is imported only where it is needed

    found = _read_checkpoint(text, fetch(text, CONFIG_NAME).parent)
    # A plain model is read file by file, as they are needed; a checkpoint of ours is small beside its base.
    return _read_checkpoint(text, fetch_all(text)) if found.has_codec else replace(found, base=text)


def find_base(source: str) -> str:
    """The base model to train on, a folder or a hub id: of a checkpoint, its own.

    Raises `CheckpointError` as `resolve` does, with what makes a base.
    """
    if is_hub_id(source) and not Path(source).is_dir():
        return source
    try:
        return resolve(source).base
    except CheckpointError as error:
        raise CheckpointError(f"{error} (tofc pretrain makes a base)") from error


def _how_to_make(path: str) -> str:
    """What to run first for a path below runs/, as the end of a sentence."""
    parts = Path(path).parts
    if parts[:1] != ("runs",) or len(parts) < 2:
        return ""
    files = [folder / f"{parts[1]}.yaml" for folder in CONFIG_FOLDERS]
    recipe = next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)
    if recipe is None:
        return f" in {Path.cwd()}: give the --out of the command that wrote it"
    kinds = (("branches", "train-familial"), ("base", "train"))
    kind = next((kind for key, kind in kinds if re.search(f"^{key}:", recipe, re.MULTILINE)), "pretrain")
    return f" yet; run first: tofc {kind} {parts[1]}"


def _read_checkpoint(name: str, folder: Path) -> Checkpoint:
    file = folder / CONFIG_NAME
    if (folder / DEVICE_CONFIG).is_file():
        raise CheckpointError(
            f"{folder} is an export for devices, which only encodes: load it with tofc.Device, and give here "
            f"the checkpoint that it was made from ({DEVICE_CONFIG} names it)"
        )
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG_NAME}: neither a checkpoint of tofc nor a transformers model"
        )
    from tofc.hub import read_json

    values = read_json(file)
    if values.get("model_type") == "llava_onevision":
        config = CheckpointConfig(base=".", tiling="anyres", merging=MergingConfig(tokens="all"))
        return Checkpoint(name, folder, config, base=str(folder), has_codec=False)
    if "format_version" not in values:
        raise CheckpointError(
            f"{file} describes {values.get('model_type') or 'something else'}; needed is a tofc checkpoint "
            "(format_version) or a LLaVA-OneVision model (model_type llava_onevision)"
        )
    config = from_mapping(CheckpointConfig, values, str(file))
    # A join lets an absolute base win over the folder.
    inside = os.path.join(folder, config.base)
    base = inside if os.path.isdir(inside) else config.base
    if base != inside and not is_hub_id(base):
        raise CheckpointError(
            f"{folder} names the base model {_shown(base)}, and there is no such folder: get the rest"
        )
    if os.path.isabs(config.base):
        _log.warning("%s takes its base model from outside of its folder: %s", folder, base)
    return Checkpoint(name, folder, config, base=base, has_codec=True)


def write_config(folder: Path, config: CheckpointConfig) -> None:
    """Writes `config` as the `config.json` of a checkpoint folder."""
    write_json(folder / CONFIG_NAME, dataclasses.asdict(config), indent=2)
