"""Configurations: every key is a field, every fault is named with its remedy."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tofc.config import (
    CheckpointConfig,
    MergingConfig,
    find_config,
    from_mapping,
    load_yaml,
    resolve,
    write_config,
)
from tofc.errors import ConfigError, UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    steps: int = 10


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    folder: Path = Path()
    weights: dict[str, float] = field(default_factory=dict)
    tokens: int | str = 64

    def __post_init__(self) -> None:
        if self.name == "":
            raise ValueError("name is empty; give one")


FULL = """
name: trial
inner: {rate: 1e-3, steps: 5}
sizes: [1, 2]
pair: [1, 2.5]
limit: null
mode: slow
folder: some/where
weights: {a: 1}
tokens: all
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "trial.yaml"
    path.write_text(text)
    return path


def test_every_kind_of_field(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, FULL), Outer) == Outer(
        name="trial",
        inner=Inner(rate=0.001, steps=5),
        sizes=(1, 2),
        pair=(1.0, 2.5),
        mode="slow",
        folder=Path("some/where"),
        weights={"a": 1.0},
        tokens="all",
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: a\ncolour: 3", "unknown key colour; valid are name, inner, sizes"),
        ("name: a\ninner: {stepz: 3, ratio: 1}", "inner: unknown keys stepz, ratio; valid are rate, steps"),
        ("sizes: [1]", "missing name"),
        ("name: a\ninner: {steps: many}", "inner: steps is 'many'; give a value of type int"),
        ("name: a\ninner: {steps: true}", "steps is True; give a value of type int"),
        ("name: a\ninner: 3", "expected keys and values for Inner, found 3"),
        ("name: a\nsizes: 3", "sizes is 3; give a list"),
        ("name: a\nsizes: [1, x]", r"sizes\[1\] is 'x'"),
        ("name: a\npair: [1]", "pair has 1 entries; give 2"),
        ("name: a\nmode: quick", "mode is 'quick'; choose one of fast, slow"),
        ("name: a\nlimit: x", "limit is 'x'; give a value of type int"),
        ("name: ''", "name is empty; give one"),
        ("- 1\n- 2", "expected keys and values for Outer"),
        ("name: [", "not a YAML file"),
    ],
)
def test_faults_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path, Outer)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, ""), Inner) == Inner()


def test_bundled_configs_are_found_by_name() -> None:
    path = find_config("scenes-tiny")
    assert path.name == "scenes-tiny.yaml"
    assert find_config(path) == path
    with pytest.raises(ConfigError, match=r"nor a bundled config .*scenes-tiny"):
        find_config("no-such-config")


def test_a_checkpoint_config_survives_its_file(tmp_path: Path) -> None:
    config = CheckpointConfig(tiling="anyres", merging=MergingConfig(tokens="all"), default_quality=7)
    write_config(tmp_path, config)
    values = json.loads((tmp_path / "config.json").read_text())
    assert from_mapping(CheckpointConfig, values, "config.json") == config
    assert list(values) == [f.name for f in dataclasses.fields(CheckpointConfig)]


@pytest.mark.parametrize("spread, way", [(True, "spread"), (False, "dpc_knn")])
def test_earlier_checkpoints_say_spread(spread: bool, way: str) -> None:
    values = {"tokens": 25, "neighbours": 5, "spread": spread, "ladder": []}
    assert from_mapping(MergingConfig, values, "config.json") == MergingConfig(tokens=25, way=way)
    assert "spread" in values  # what was given is left as it was
    with pytest.raises(ConfigError, match="unknown key spread"):
        from_mapping(MergingConfig, {**values, "way": "blocks"}, "config.json")


@pytest.mark.parametrize(
    "values",
    [{"tiling": "mosaic"}, {"default_quality": 0}, {"default_quality": 9}, {"format_version": 2},
     {"merging": {"tokens": 0}}, {"merging": {"tokens": "most"}}, {"merging": {"neighbours": 0}},
     {"merging": {"way": "pooling"}}],
)  # fmt: skip
def test_impossible_checkpoint_configs(values: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        from_mapping(CheckpointConfig, values, "config.json")


# What a checkpoint from a stranger says


def checkpoint(folder: Path, text: str) -> Path:
    (folder / "base").mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    "text",
    [
        '{"format_version": 1, "base": "../elsewhere"}',
        '{"format_version": 1, "family": "../family"}',
        '{"format_version": 1, "adapters": "/etc"}',
        '{"format_version": 1, "base": "' + "x" * 5000 + '"}',
        '{"format_version": 1, "base": "a\\u0000b"}',
        '{"format_version": 1, "merging": ' + "[" * 100_000 + "}",
        '{"format_version": 1, "default_quality": ' + "9" * 5000 + "}",
        '{"format_version": 1e999}',
    ],
)
def test_what_a_checkpoint_may_not_say(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(checkpoint(tmp_path, text))
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x/" * 3000])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(name)
    assert len(str(refused.value)) < 600


def test_a_base_outside_of_the_folder_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    found = resolve(checkpoint(folder, json.dumps({"format_version": 1, "base": str(elsewhere)})))
    assert found.base == str(elsewhere)
    assert str(elsewhere) in caplog.text
    caplog.clear()
    assert resolve(checkpoint(folder, '{"format_version": 1}')).base == str(folder / "base")
    assert not caplog.text


def test_earlier_checkpoints_named_the_files_of_the_codec(tmp_path: Path) -> None:
    files = {"weights": "codec.safetensors", "integers": "codec-integer.safetensors"}
    text = json.dumps({"format_version": 1, "codec": files})
    assert resolve(checkpoint(tmp_path, text)).config == CheckpointConfig()
