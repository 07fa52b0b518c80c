"""Evaluations as people run them."""

from __future__ import annotations

from typer.testing import CliRunner

from tofc.cli.app import app


def evaluate(*words: object) -> tuple[int, str, str]:
    """`tofc eval` with these words: exit code, standard output, standard error; what is no exit is raised."""
    done = CliRunner().invoke(app, ["eval", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr
