"""Everything that is measured stands in one list, and is reached from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.eval.commands import evaluate
from tofc.cli.evaluations import EVALUATIONS

ROOT = Path(__file__).resolve().parents[2]


def test_the_list_has_every_evaluation() -> None:
    rooms = {path.parent.name for path in (ROOT / "eval").glob("*/__main__.py")}
    assert rooms == set(EVALUATIONS)
    code, shown, _ = evaluate("--help")
    assert code == 0
    assert all(name in shown for name in EVALUATIONS)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_has_help_under_its_own_name(name: str) -> None:
    code, shown, _ = evaluate(name, "--help")
    assert code == 0
    assert f"tofc eval {name}" in " ".join(shown.split())


def test_help_of_the_list_loads_no_evaluation() -> None:
    script = (
        "import sys; from tofc.cli.app import app; from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['eval', '--help']).exit_code == 0\n"
        "print(sorted({'eval', 'torch', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
