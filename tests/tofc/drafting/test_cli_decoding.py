"""`tofc ask --tiers`: here, over the network, and what does not go together."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from eval.scenes.world import make_scene
from tests.tofc.drafting.fakes import QUESTION
from tests.tofc.drafting.serving import running
from tofc.cli.app import app
from tofc.cli.tiers import progress_text
from tofc.drafting.progress import Piece, Progress
from tofc.serving.models import ServedModels

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def url(family_folder: Path) -> Iterator[str]:
    with running(ServedModels.load(family_folder, images=False)) as server:
        yield server.url


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.fromarray(make_scene("test", 0)[1]).save(file)
    return str(file)


def ask(picture: str, folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["ask", picture, QUESTION, "--model", str(folder), *options])


def test_members_here(picture: str, family_folder: Path) -> None:
    plain = json.loads(ask(picture, family_folder, "--json").stdout)
    found = json.loads(ask(picture, family_folder, "--tiers", "e1,full", "--json").stdout)
    assert found["answer"] == plain["answer"]
    assert found["unverified"] == 0
    assert 0 < found["rounds"] <= found["answer_tokens"] + 1
    assert found["drafts"]["stood"] <= found["drafts"]["sent"] <= found["drafts"]["made"]


@pytest.mark.parametrize("options", [("--tiers", "device,edge"), ("--draft", "e1-50")])
def test_device_and_edge(picture: str, family_folder: Path, url: str, options: tuple[str, str]) -> None:
    plain = json.loads(ask(picture, family_folder, "--json").stdout)
    result = ask(picture, family_folder, *options, "--edge", url)
    assert result.exit_code == 0, result.output
    assert result.stdout == plain["answer"] + "\n"  # once, and nothing else
    assert "drafts stood" in result.stderr


def test_an_edge_that_is_not_there_leaves_the_device_alone(picture: str, family_folder: Path) -> None:
    alone = json.loads(ask(picture, family_folder, "--exit", "e1-50", "--json").stdout)
    given = ask(picture, family_folder, "--draft", "e1", "--edge", "http://127.0.0.1:9", "--json")
    found = json.loads(given.stdout)
    assert (found["answer"], found["exit"]) == (alone["answer"], "e1-50")  # the smallest member's
    assert "did not answer" in found["fallback"]
    assert found["unverified"] == found["answer_tokens"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tiers", "device,edge"), "--edge URL"),
        (("--tiers", "edge,device", "--edge", "http://127.0.0.1:9"), "device,edge,cloud"),
        (("--draft", "e1"), "--edge URL"),
        (("--tiers", "e1,full", "--exit", "e3"), "leave out --exit"),
        (("--draft", "e1", "--edge", "http://127.0.0.1:9", "--deadline-ms", "9"), "leave out --exit and"),
        (("--draft", "e9", "--edge", "http://127.0.0.1:9"), "no exit 'e9'"),
        (("--tiers", "full,e1"), "a verifier is larger than its drafter"),
        (("--draft", "e1", "--edge", "http://127.0.0.1:9", "--no-fallback"), "did not answer"),
    ],
)
def test_what_does_not_go_together(
    picture: str, family_folder: Path, options: tuple[str, ...], said: str
) -> None:
    result = ask(picture, family_folder, *options)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())


def test_verified_and_unverified_tokens_look_different() -> None:
    pieces = (
        Piece("There is a ", "final"),
        Piece("blue", "final", corrected=True),
        Piece(" car on", "checked"),
        Piece(" the street.", "drafted"),
    )
    text = progress_text(Progress(pieces))
    said, _, legend = text.plain.partition("\n\n")
    assert said == "There is a blue car on the street."
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["blue"] == "underline"
    assert styles[" car on"] == "italic"
    assert styles[" the street."] == "dim italic"
    assert "There is a " not in styles
    assert legend.split() == ["verified", "not", "by", "the", "cloud", "yet", "drafted", "corrected"]
    assert progress_text(Progress((Piece("Yes", "drafted"),))).plain.split() == ["Yes", "drafted"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--exit", "e1"), "--upstream URL"),
        (("--role", "cloud", "--upstream", "http://127.0.0.1:9"), "the cloud is the last tier"),
        (("--role", "fog"), "'fog' is not one of"),
        (("--role", "edge", "--upstream", "nowhere"), "the edge's address is 'nowhere'"),
        (("--upstream", "http://127.0.0.1:9", "--exit", "e9"), "no exit 'e9'"),
        (("--upstream", "http://127.0.0.1:9", "--exit", "full"), "such as --exit e3"),
    ],
)
def test_a_middle_tier_that_cannot_start(family_folder: Path, options: tuple[str, ...], said: str) -> None:
    command = ["serve", "--model", str(family_folder), "--packets-only", "--port", "0", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())


def test_an_upstream_that_is_gone_is_one_clear_error_before_a_model_is_read(family_folder: Path) -> None:
    """As a process: it says so in one line and ends."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    command = ["serve", "--role", "edge", "--upstream", url, "--model", str(family_folder), "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "tofc", *command], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 2
    assert done.stdout == ""
    said = done.stderr.strip().splitlines()
    assert len(said) == 1
    assert f"the edge {url} did not answer in 4 tries" in said[0]
