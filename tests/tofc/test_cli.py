"""The command line: main paths as real processes; mistakes in-process, at one line and code 2 each."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tofc.answer import Answer
from tofc.cli.app import app
from tofc.cli.files import write_output
from tofc.cli.report import answer_line
from tofc.config import DEFAULT_MODEL
from tofc.contents import whole_bytes
from tofc.errors import UserError
from tofc.packet import Packet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 448x448 picture: four flat quarters, which merge well."""
    quarters = np.array([[[200, 30, 30], [30, 160, 40]], [[40, 40, 180], [220, 210, 60]]], np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "quarters.png"
    Image.fromarray(quarters.repeat(224, 0).repeat(224, 1)).save(path)
    return path


@pytest.fixture(scope="module")
def packet_file(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packets") / "quarters.tofc"
    result = run("encode", str(picture), "-o", str(path))
    assert result.exit_code == 0, result.output
    return path


def run(*arguments: str, input: bytes | None = None) -> Result:
    """A command in this process; an exception that is no user error comes out as itself."""
    return CliRunner().invoke(app, list(arguments), input=input, catch_exceptions=False)


def process(
    *arguments: str, input: bytes | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A command as a user runs it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "tofc", *arguments],
        input=input if input is not None else b"",
        cwd=cwd,
        env=environment,
        capture_output=True,
        check=False,
    )


def refused(result: Result, *words: str) -> None:
    """The command ended as a user error: code 2, nothing on standard output, one line that has `words`."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("tofc: ")
    for word in words:
        assert word in line


def test_a_terminal_says_when_an_answer_is_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scripts read is the text alone."""
    doubtful, sure = (Answer("Yes.", "full", (5,), confidence=value) for value in (0.3, 0.9))
    assert answer_line(doubtful) == "Yes."
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert (answer_line(doubtful), answer_line(sure)) == ("Yes. (unsure)", "Yes.")


def test_fractions_of_bytes_keep_their_sum() -> None:
    assert whole_bytes({"a": 2.0, "b": 0.4, "c": 0.4, "d": 7.2}) == {"a": 2, "b": 0, "c": 1, "d": 7}


# Main paths.


def test_encode_info_answer_as_processes(picture: Path, tmp_path: Path) -> None:
    encoded = process("encode", str(picture), "-o", "a.tofc", "--quality", "5", "--json", cwd=tmp_path)
    assert encoded.returncode == 0, encoded.stderr.decode()
    fields = json.loads(encoded.stdout)
    size = (tmp_path / "a.tofc").stat().st_size
    assert fields["bytes"] == size
    assert fields["file"] == "a.tofc"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tofc"]  # no temporary file is left

    told = process("info", "a.tofc", "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr.decode()
    info = json.loads(told.stdout)
    assert sum(info["sections"].values()) == info["bytes"] == size
    assert info["quality"] == fields["quality"] == 5
    assert info["tokens"] == fields["tokens"]
    assert {"router", "hyperprior", "features", "checksum"} <= set(info["sections"])

    answered = process("answer", "a.tofc", "Is there a car?", "--json", cwd=tmp_path)
    assert answered.returncode == 0, answered.stderr.decode()
    answer = json.loads(answered.stdout)
    assert isinstance(answer["answer"], str)
    assert answer["bytes"] == size


def test_ask_prints_the_answer_alone_on_standard_output(picture: Path) -> None:
    asked = run("ask", str(picture), "Is there a car?")
    answer = json.loads(run("ask", str(picture), "Is there a car?", "--json").stdout)["answer"]
    assert asked.stdout == f"{answer}\n"
    assert "bytes" in asked.stderr


def test_ask_equals_encode_and_answer(picture: Path, packet_file: Path) -> None:
    question = "What colour is it?"
    asked = json.loads(run("ask", str(picture), question, "--json").stdout)
    answered = json.loads(run("answer", str(packet_file), question, "--json").stdout)
    assert asked["answer"] == answered["answer"]
    assert asked["bytes"] == answered["bytes"] == packet_file.stat().st_size


def test_streams_carry_the_same_packet(picture: Path, packet_file: Path) -> None:
    encoded = process("encode", "-", "-o", "-", input=picture.read_bytes())
    assert encoded.returncode == 0, encoded.stderr.decode()
    assert encoded.stdout == packet_file.read_bytes()
    assert b"bytes" in encoded.stderr

    told = run("info", "-", "--json", input=encoded.stdout)
    assert json.loads(told.stdout)["bytes"] == len(encoded.stdout)
    answered = run("answer", "-", "Is there a car?", "--json", input=encoded.stdout)
    assert json.loads(answered.stdout)["bytes"] == len(encoded.stdout)


def test_info_shows_where_every_byte_goes(packet_file: Path) -> None:
    told = run("info", str(packet_file))
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("part")) + 1 :]
    sizes = [int(row.rsplit(maxsplit=3)[1]) for row in rows if row.endswith("%")]
    assert sum(sizes[:-1]) == sizes[-1] == packet_file.stat().st_size


def test_info_without_the_model_tells_what_it_can(tmp_path: Path) -> None:
    file = tmp_path / "foreign.tofc"
    file.write_bytes(bytes(Packet(payload=b"payload", image_sizes=((30, 40),), model_tag=b"???")))
    told = run("info", str(file), "--json")
    assert told.exit_code == 0
    fields = json.loads(told.stdout)
    assert fields["pictures"] == [{"width": 40, "height": 30}]
    assert fields["sections"]["payload"] == 7
    assert sum(fields["sections"].values()) == file.stat().st_size


def test_max_bytes_is_kept(picture: Path, packet_file: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.tofc"
    assert run("encode", str(picture), "-o", str(best), "--quality", "8").exit_code == 0
    limit = best.stat().st_size - 1
    under = tmp_path / "under.tofc"
    done = run("encode", str(picture), "-o", str(under), "--max-bytes", str(limit))
    assert done.exit_code == 0, done.output
    assert under.stat().st_size <= limit


def test_tokens_are_what_was_asked_for(picture: Path, tmp_path: Path) -> None:
    done = run("encode", str(picture), "-o", str(tmp_path / "few.tofc"), "--tokens", "16", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tokens"] == 16


def test_encode_replaces_an_older_packet(picture: Path, packet_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "again.tofc"
    target.write_bytes(b"old")
    assert run("encode", str(picture), "-o", str(target)).exit_code == 0
    assert target.read_bytes() == packet_file.read_bytes()


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith("tofc ")
    overview = run("--help")
    assert overview.exit_code == 0
    for command in ("ask", "encode", "info", "answer", "pretrain", "train"):
        assert command in overview.stdout
        assert "Examples" in run(command, "--help").stdout


def test_info_names_the_model_that_does_not_fit(packet_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "foreign.tofc"
    file.write_bytes(bytes(Packet(payload=b"payload", image_sizes=((30, 40),), model_tag=b"???")))
    refused(run("info", str(file), "--model", DEFAULT_MODEL), "3f3f3f", DEFAULT_MODEL)
    assert run("info", str(packet_file), "--model", DEFAULT_MODEL).exit_code == 0


# Pictures that are none.


@pytest.mark.parametrize("command", ["ask", "encode"])
def test_no_image(command: str, tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    target = tmp_path / "out.tofc"
    rest = ["Is there a car?"] if command == "ask" else ["-o", str(target)]
    refused(run(command, str(text), *rest), "notes.jpg", "not an image")
    assert not target.exists()


def test_truncated_image(picture: Path, tmp_path: Path) -> None:
    cut, target = tmp_path / "cut.png", tmp_path / "out.tofc"
    cut.write_bytes(picture.read_bytes()[:-200])
    refused(run("encode", str(cut), "-o", str(target)), "cut.png", "damaged or cut short")
    assert list(tmp_path.iterdir()) == [cut]


def test_empty_image_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    refused(run("ask", str(empty), "Is there a car?"), "empty")


def test_zero_sized_image(tmp_path: Path) -> None:
    flat = tmp_path / "flat.pgm"
    flat.write_bytes(b"P5 0 10 255\n")
    refused(run("ask", str(flat), "Is there a car?"), "flat.pgm")


def test_too_many_pixels_names_the_option_that_helps(tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    Image.new("1", (10_000, 10_000)).save(huge)
    refused(
        run("encode", str(huge), "-o", str(tmp_path / "out.tofc")),
        "100.0 megapixels",
        "--max-pixels 100000000",
    )


def test_the_pixel_limit_is_the_users(picture: Path) -> None:
    refused(run("ask", str(picture), "Is there a car?", "--max-pixels", "1000"), "--max-pixels")
    refused(run("ask", str(picture), "Is there a car?", "--max-pixels", "0"), "--max-pixels is 0")


def test_nothing_on_standard_input() -> None:
    refused(run("ask", "-", "Is there a car?", input=b""), "standard input", "empty")


def test_missing_image_and_folder(tmp_path: Path) -> None:
    refused(run("ask", str(tmp_path / "no.jpg"), "Is there a car?"), "no.jpg does not exist")
    refused(run("ask", str(tmp_path), "Is there a car?"), "is a folder")


# Packets that are none.


@pytest.mark.parametrize("command", ["info", "answer"])
@pytest.mark.parametrize("fault", ["cut", "flipped", "longer", "empty", "text"])
def test_damaged_packet(command: str, fault: str, tmp_path: Path) -> None:
    whole = bytes(Packet(payload=bytes(range(50)), image_sizes=((448, 448),), model_tag=b"abc"))
    damaged = {
        "cut": whole[:-1],
        "flipped": whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        "longer": whole + b"\0",
        "empty": b"",
        "text": b"this is a letter and no packet at all",
    }[fault]
    file = tmp_path / "damaged.tofc"
    file.write_bytes(damaged)
    rest = ["Is there a car?"] if command == "answer" else []
    refused(run(command, str(file), *rest))


def test_packet_of_another_version(packet_file: Path, tmp_path: Path) -> None:
    body = packet_file.read_bytes()[:-4]
    newer = bytes([(body[0] & 0x0F) | 0xF0]) + body[1:]
    file = tmp_path / "newer.tofc"
    file.write_bytes(newer + zlib.crc32(newer).to_bytes(4, "big"))
    for command in (["info", str(file)], ["answer", str(file), "Is there a car?"]):
        refused(run(*command), "version 15", "version 2")


def test_packet_of_another_model(packet_file: Path, tmp_path: Path) -> None:
    packet = Packet.from_bytes(packet_file.read_bytes())
    tag = bytes(byte ^ 0xFF for byte in packet.model_tag)
    file = tmp_path / "foreign.tofc"
    file.write_bytes(bytes(Packet(packet.payload, packet.image_sizes, tag, packet.tiling)))
    refused(run("answer", str(file), "Is there a car?"), "model")


def test_missing_packet(tmp_path: Path) -> None:
    refused(run("info", str(tmp_path / "no.tofc")), "no.tofc does not exist")
    refused(run("answer", str(tmp_path), "Is there a car?"), "is a folder")


# Questions, options, outputs.


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_empty_question(question: str, picture: Path, packet_file: Path) -> None:
    refused(run("ask", str(picture), question), "question is empty")
    refused(run("answer", str(packet_file), question), "question is empty")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--quality", "0"], ["--quality is 0", "1", "8"]),
        (["--quality", "9"], ["--quality is 9"]),
        (["--max-bytes", "0"], ["--max-bytes is 0"]),
        (["--max-bytes", "5"], ["5"]),  # no packet is that small
        (
            ["--quality", "4", "--tokens", "9", "--max-bytes", "400"],
            ["--max-bytes nothing", "two of the three"],
        ),
        (["--tokens", "0"], ["--tokens is 0"]),
        (["--tokens", "many"], ["--tokens is many"]),
        (["--model", "no-such-model"], ["no-such-model", "scenes-tiny"]),
    ],
)
def test_options_out_of_range(options: list[str], words: list[str], picture: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.tofc"
    refused(run("encode", str(picture), "-o", str(target), *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be(picture: Path, tmp_path: Path) -> None:
    refused(run("encode", str(picture), "-o", str(tmp_path)), "is a folder")
    refused(run("encode", str(picture), "-o", str(tmp_path / "no" / "out.tofc")), "does not exist", "mkdir")
    before = picture.read_bytes()
    refused(run("encode", str(picture), "-o", str(picture)), "is the input itself")
    assert picture.read_bytes() == before
    refused(run("encode", str(picture), "-o", "-", "--json"), "standard output")


def test_output_that_fails_half_way_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.tofc"
    target.write_bytes(b"old")

    def disk_is_full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_is_full)
    with pytest.raises(UserError, match="No space left"):
        write_output(str(target), b"a new packet")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.tofc"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output(str(pipe), b"packet")
        assert os.read(reader, 100) == b"packet"
        assert pipe.is_fifo()
    finally:
        os.close(reader)


def test_unknown_option_is_a_user_error() -> None:
    assert run("encode", "--no-such-option").exit_code == 2
    assert run("no-such-command").exit_code == 2


@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_training_refuses_a_config_that_is_none(command: str, tmp_path: Path) -> None:
    refused(run(command, str(tmp_path / "no.yaml")), "no.yaml", "scenes-tiny")
    config = tmp_path / "wrong.yaml"
    config.write_text("batchsize: 3\n")
    refused(run(command, str(config)), "batchsize", "data")


@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_training_refuses_an_output_that_is_something_else(command: str, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    data = "data: {source: 'eval.scenes.corpus:SceneCorpus'}\n"
    config.write_text(data + ("base: nowhere\n" if command == "train" else "seed: 1\n"))
    refused(run(command, str(config), "--out", str(config)), "small.yaml is a file")


def test_train_refuses_before_the_work_what_it_cannot_write_or_read(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    data = "data: {source: 'eval.scenes.corpus:SceneCorpus'}\n"
    config.write_text(f"base: {tmp_path / 'nowhere'}\n{data}")
    refused(run("train", str(config), "--out", str(tmp_path)), "something else than a checkpoint")
    refused(run("train", str(config), "--out", str(tmp_path / "new")), "nowhere", "tofc pretrain")
    assert list(tmp_path.iterdir()) == [config]


# Faults of ours.


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_of_ours_is_one_line_and_code_1(debug: bool) -> None:
    arguments = ["tofc", "--debug", "info", "x"] if debug else ["tofc", "info", "x"]
    script = (
        "import sys\n"
        "from tofc import cli\n"
        "from tofc.cli import packets\n"
        "def broken(*_): raise RuntimeError('wheel came off')\n"
        "packets.read_input = broken\n"
        f"sys.argv = {arguments!r}\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "wheel came off" in done.stderr
    assert ("Traceback" in done.stderr) == debug
    if not debug:
        assert len(done.stderr.splitlines()) == 1


def test_formats_beyond_rgb_are_answered(tmp_path: Path) -> None:
    """Palette, grey with alpha, 16 bits: whatever Pillow opens goes through, here from a stream."""
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    kinds = {
        "palette.gif": Image.fromarray((ramp >> 8).astype(np.uint8)).convert("P"),
        "grey-alpha.png": Image.fromarray((ramp >> 8).astype(np.uint8)).convert("LA"),
        "deep.png": Image.fromarray(ramp),
    }
    for name, image in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, format=name.rsplit(".", 1)[1].upper())
        target = tmp_path / f"{name}.tofc"
        done = run("encode", "-", "-o", str(target), input=buffer.getvalue())
        assert done.exit_code == 0, (name, done.output)
