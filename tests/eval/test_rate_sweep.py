"""Sweeps as people run them: real files, a real kill, and figures that come out of the rows again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from eval.rate.config import RateConfig
from tofc.cli.app import app
from tofc.config import load_yaml

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = {
    "tofc": [{"quality": [1, 8], "tokens": [12]}],
    "uncoded": [12],
    "int8": {"levels": [15], "tokens": [12]},
    "merged_jpeg": {"quality": [50], "tokens": [12]},
    "jpeg": [{"scale": [0.125], "quality": [5, 50]}],
    "webp": [{"scale": [0.125], "quality": [5]}],
    "avif": [{"scale": [0.125], "quality": [30], "chroma": ["4:4:4"]}],
    "jpegxl": [{"scale": [0.125], "quality": [30]}],
}
NUM_POINTS = 1 + 2 + 1 + 1 + 1 + 2 * (2 + 1 + 1 + 1)


def write_config(folder: Path, model: Path, **changes) -> Path:
    values = {
        "name": "tiny", "checkpoint": str(model), "limit": 3, "pictures_at_once": 2, "resamples": 50,
        "baseline_tokens": ["all", 12], "systems": SYSTEMS, **changes,
    }  # fmt: skip
    target = folder / "tiny.yaml"
    target.write_text(yaml.safe_dump(values))
    return target


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["eval", "rate", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Path) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("sweep")
    config = write_config(folder, checkpoint_folder)
    code, output = run(config, "--out", folder / "out", "--processes", 1)
    assert code == 0, output
    return config, folder / "out", output


def test_a_sweep_leaves_rows_summary_and_curves(finished) -> None:
    _, out, output = finished
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["points"]) == NUM_POINTS
    assert set(summary["fronts"]) == {"yes_no", "choice", "free"}
    with Image.open(out / "curves.png") as figure:
        assert figure.width > 1500
    assert (out / "curves.svg").read_text().count("<path") > 20
    assert "within 1 point of uncoded" in output
    assert "JPEG XL" in output


def test_every_figure_comes_out_of_the_rows_again(finished) -> None:
    """With the csv module and plain sums, of rows that went through a file of text."""
    _, out, _ = finished
    pyarrow.csv.write_csv(pyarrow.parquet.read_table(out / "rows.parquet"), out / "rows.csv")
    with open(out / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right: dict = defaultdict(lambda: [0, 0])
    size: dict = defaultdict(dict)
    for row in rows:
        key = row["system"], row["point"]
        right[(*key, row["form"])][0] += int(row["right"])
        right[(*key, row["form"])][1] += int(row["of"])
        size[key][row["picture"]] = int(row["bytes"])
    summary = json.loads((out / "summary.json").read_text())
    for point in summary["points"]:
        key = point["system"], point["point"]
        assert len(size[key]) == 3
        assert point["bytes"]["mean"] == pytest.approx(sum(size[key].values()) / 3)
        assert point["bytes"]["p50"] == sorted(size[key].values())[1]
        for form, accuracy in point["accuracy"].items():
            of_form = right[(*key, form)]
            assert accuracy["value"] == pytest.approx(of_form[0] / of_form[1])
            assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    # The fronts of yes/no, by comparing every point with every other one.
    for system, names in summary["fronts"]["yes_no"].items():
        own = {p["point"]: (p["bytes"]["mean"], -p["accuracy"]["yes_no"]["value"]) for p in summary["points"]
               if p["system"] == system}  # fmt: skip
        best = {
            name for name, (b, a) in own.items()
            if not any((ob, oa) != (b, a) and ob <= b and oa <= a for ob, oa in own.values())
        }  # fmt: skip
        assert {own[name] for name in names} == {own[name] for name in best}


def test_bytes_are_those_of_real_packets(finished, checkpoint_folder: Path) -> None:
    import tofc
    from eval.rate.scenes import ScenesData

    _, out, _ = finished
    table = pyarrow.parquet.read_table(out / "rows.parquet").to_pylist()
    device, edge = (
        tofc.Device.from_pretrained(checkpoint_folder),
        tofc.Edge.from_pretrained(checkpoint_folder),
    )
    example = ScenesData()[2]
    packet = device.encode(example.image, quality=8, tokens=12)
    mine = [r for r in table if r["picture"] == example.name and r["point"] == "quality 8, tokens 12"]
    assert {row["bytes"] for row in mine} == {len(bytes(packet))}
    for row in mine[::5]:
        question = example.questions[row["question"]]
        assert row["answer"] == edge.answer(packet, question.prompt, max_new_tokens=12).text
        assert (row["right"], row["of"]) == question.score(row["answer"])


def test_a_finished_sweep_repeats_nothing_whatever_its_limit(finished, tmp_path: Path) -> None:
    config, done, _ = finished
    out = shutil.copytree(done, tmp_path / "out")
    parts = {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    before = (out / "rows.parquet").read_bytes()
    code, output = run(config, "--out", out)
    assert code == 0, output
    assert {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()} == parts
    assert (out / "rows.parquet").read_bytes() == before
    code, output = run(config, "--out", out, "--limit", 2, "--json")  # the first block alone
    assert code == 0, output
    assert {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()} == parts
    assert json.loads(output.splitlines()[-1])["pictures"] == 2


def test_a_killed_sweep_goes_on(finished, checkpoint_folder: Path, tmp_path: Path) -> None:
    """Killed without warning at its first finished part; what was done then is not touched again.

    It had two processes; their rows are those of one.
    """
    some = {"tofc": SYSTEMS["tofc"], "int8": SYSTEMS["int8"], "webp": SYSTEMS["webp"]}
    config, out = write_config(tmp_path, checkpoint_folder, systems=some), tmp_path / "out"
    command = [sys.executable, "-m", "tofc", "eval", "rate", str(config), "--out", str(out)]
    victim = subprocess.Popen(
        [*command, "--processes", "2"], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not list(out.glob("parts/*.parquet")):
            assert victim.poll() is None, "the sweep ended before it had written a part"
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        for _ in range(1000):  # its processes see that it is gone, and end
            if not _group_lives(victim.pid):
                break
            time.sleep(0.02)
        assert not _group_lives(victim.pid), "processes of a killed sweep live on"
    finally:
        if _group_lives(victim.pid):
            os.killpg(victim.pid, signal.SIGKILL)
    assert not (out / "rows.parquet").exists()
    done = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}
    code, output = run(config, "--out", out, "--processes", 1)
    assert code == 0, output
    assert "are done already" in output
    assert {path: path.stat().st_mtime_ns for path in done} == done
    ours = pyarrow.parquet.read_table(out / "rows.parquet").to_pylist()
    every = pyarrow.parquet.read_table(finished[1] / "rows.parquet").to_pylist()
    assert ours == [row for row in every if row["system"] in ("raw", "tofc", "int8", "webp")]


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_another_checkpoint_does_not_continue_a_sweep(finished, other_folder: Path, tmp_path: Path) -> None:
    _, out, _ = finished
    config = write_config(tmp_path, other_folder)
    code, output = run(config, "--out", out)
    assert code == 2
    assert "holds a sweep with another checkpoint" in output
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    code, output = run(config, "--out", tmp_path / "full")
    assert code == 2
    assert "something else than a sweep" in output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"systems": {"gif": {}}}, "unknown key gif; valid are tofc"),
        ({"systems": {"jpeg": [{"quality": [5], "scale": [2.0]}]}}, "above 0 up to 1"),
        ({"systems": {"webp": [{"quality": [5], "chroma": ["4:4:4"]}]}}, "choose from 4:2:0"),
        ({"systems": {"tofc": [{}, {"quality": [4]}]}}, "stand twice"),
        ({"systems": {"int8": {"levels": [4]}}}, "odd numbers from 3 to 255"),
        ({"limit": 0}, "at least 1"),
        ({"data": {"source": "eval.rate.scenes:ScenesData", "options": {"split": "no"}}}, "no split 'no'"),
        ({"data": {"source": "eval.rate.scenes:Nothing"}}, "gives no data set"),
        ({"checkpoint": "no-such-model"}, "no-such-model"),
    ],
)
def test_mistakes_are_one_line(changes, words: str, tmp_path: Path, checkpoint_folder: Path) -> None:
    config = write_config(tmp_path, checkpoint_folder, **changes)
    code, output = run(config, "--out", tmp_path / "out")
    assert code == 2
    assert words in " ".join(output.split())
    assert "Traceback" not in output


def test_bad_options(tmp_path: Path) -> None:
    assert run("eval-scenes", "--limit", 0)[0] == 2
    assert run(tmp_path / "none.yaml")[0] == 2


def test_blocks_cover_the_pictures() -> None:
    config = load_yaml("eval-scenes", RateConfig)
    assert [len(block) for block in config.blocks()] == [32] * 15 + [20]
    assert [block.start for block in config.blocks()] == list(range(0, 500, 32))


def test_a_grid_may_name_tokens_of_its_own() -> None:
    config = load_yaml("eval-scenes", RateConfig)
    settings = [dict(p.settings) for s in config.senders() for p in s.points if "scale" in dict(p.settings)]
    tokens = {scale: {s["tokens"] for s in settings if s["scale"] == scale} for scale in (0.5, 0.25)}
    assert tokens == {0.5: {"all", 64}, 0.25: {64}}
