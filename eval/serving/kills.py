"""`kill -9` at random moments of every command that writes.

Each command runs once unbroken and then again and again, on a folder of its own, in a process that is killed
at a moment drawn evenly over the time that it takes; where it ends before, its folder is emptied. After each
kill everything that stands under a final name must be whole. At last the command runs to its end: what it
leaves must be what the unbroken run left, and no draft may be left over. Processes are forked from one that
has imported everything, so that kills strike work and not imports; curves of trainings are one pixel, for
drawing them would be three quarters of the work.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import yaml
from PIL import Image
from safetensors import safe_open

from tofc.images import open_image
from tofc.packet import Packet
from tofc.training import state
from tofc.writing import whole_file, write_whole

DATA = {
    "source": "eval.scenes.corpus:SceneCorpus", "options": {"size": 112, "questions": 2}, "num_workers": 0,
    "tokenizer_texts": 200,
}  # fmt: skip
SHAPE = {
    "image_size": 112, "patch_size": 16, "vision_width": 32, "vision_layers": 2, "vision_heads": 2,
    "text_width": 32, "text_layers": 3, "text_heads": 2, "text_mlp": 64, "vocab_size": 400,
}  # fmt: skip
CODEC = {
    "width": 32, "experts": 2, "hyper": 4, "analysis_hidden": 16, "synthesis_hidden": 16, "router_hidden": 8,
}  # fmt: skip
OFTEN = {
    "data": DATA, "precision": "fp32", "validation_pictures": 2, "validate_every": 4, "log_every": 1,
    "save_every": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "pretrain": OFTEN | {
        "model": SHAPE, "dense_batch": 2, "answer_batch": 2, "dense_steps": 4, "total_steps": 8,
        "layouts": {"12": 1.0},
    },
    "train": OFTEN | {
        "base": "whole/pretrain/run/base", "tokens": {"12": 1.0}, "codec": CODEC, "init_pictures": 4,
        "adapters": {"rank": 2, "alpha": 4}, "merge_adapters": False,
        "checkpoint": {"merging": {"tokens": 12}, "default_quality": 3}, "feature_steps": 2,
        "total_steps": 4, "batch_size": 2, "max_text_tokens": 64, "warmup_steps": 2,
    },
    "train-familial": OFTEN | {
        "base": "whole/merge/merged", "tokens": {"12": 1.0}, "max_text_tokens": 64, "warmup_steps": 2,
        "branches": [{"exit": 1, "ratios": [0.5, 1.0]}], "calibration_pictures": 2, "total_steps": 4,
        "batch_size": 2,
    },
    "eval-rate": {
        "name": "kills", "checkpoint": "whole/train/checkpoint", "limit": 4, "pictures_at_once": 1,
        "resamples": 20, "baseline_tokens": [12], "systems": {"tofc": [{"quality": [1, 8], "tokens": [12]}]},
    },
}  # fmt: skip
# What is typed in the command's own folder, two below that of the configurations.
COMMANDS = {
    "pretrain": "pretrain ../../pretrain.yaml --out run",
    "train": "train ../../train.yaml --out checkpoint",
    "merge": "merge ../../whole/train/checkpoint merged",
    "train-familial": "train-familial ../../train-familial.yaml --out checkpoint",
    "export-device": "export-device ../../whole/train/checkpoint --out device --replace",
    "encode": "encode ../../picture.png -o picture.tofc --model ../../whole/train/checkpoint",
    "eval-rate": "eval rate ../../eval-rate.yaml --out sweep --processes 1",
}
# What the commands import when they are called.
IMPORTED = (
    "tofc.cli.app", "tofc.edge", "tofc.training.codec", "tofc.training.family", "tofc.training.hpcd",
    "tofc.training.pretrain", "tofc.ondevice.export", "tofc.ondevice.calibration", "eval.rate.sweep",
    "torch.utils.tensorboard", "compressai", "peft", "onnx", "onnxruntime", "matplotlib.backends.backend_agg",
)  # fmt: skip
# What says when, or how fast: tables of times, and what TensorBoard appends to.
VARYING = ("tensorboard", "pictures_per_second")


@dataclass
class KillOutcome:
    """What became of a command: kills, runs that ended before theirs, and all that was not as it must be."""

    kills: int = 0
    ended: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def kill_all(
    folder: Path,
    kills: Mapping[str, int],
    seed: int = 0,
    told: Callable[[str, KillOutcome], object] = lambda name, outcome: None,
    commands: Mapping[str, str] = COMMANDS,
) -> dict[str, KillOutcome]:
    """Kills each command so many times, however often it ends before; `told` hears of each that is done.

    What a command needs of those before it is made by unbroken runs of them, in `folder`, which must be new.
    """
    prepare(folder)
    outcomes = {}
    draw = random.Random(seed)
    for name, command in commands.items():
        outcome = outcomes[name] = KillOutcome()
        outcome.seconds = run_command(command, folder / "whole" / name, None)
        broken = folder / "broken" / name
        while outcome.kills < kills.get(name, 0):
            if run_command(command, broken, draw.uniform(0, outcome.seconds)) < 0:
                outcome.kills += 1
                outcome.faults += [f"after kill {outcome.kills}: {fault}" for fault in torn_files(broken)]
            else:
                outcome.ended += 1
                shutil.rmtree(broken)
        if kills.get(name, 0):
            run_command(command, broken, None)
            outcome.faults += differences(folder / "whole" / name, broken)
        told(name, outcome)
    return outcomes


def torn_files(folder: Path) -> list[str]:
    """The files below `folder`, hidden drafts aside, that are not whole."""
    faults = []
    for path in _files(folder):
        try:
            content(path)
        except Exception as error:  # each reader has its own
            faults.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    return faults


def differences(whole: Path, broken: Path) -> list[str]:
    """What two finished runs left that is not equal, and drafts that nobody cleared."""
    names = [{str(path.relative_to(folder)) for path in _files(folder)} for folder in (whole, broken)]
    faults = [f"only in one of both: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if content(whole / name) != content(broken / name):
            faults.append(f"not equal: {name}")
    return faults + [f"left over: {path.relative_to(broken)}" for path in broken.rglob(".*")]


def content(path: Path) -> Any:
    """What a file says, whatever the order in which it says it; raises where it is not whole."""
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            return [(name, file.get_tensor(name).tobytes()) for name in sorted(file.keys())]
    data = path.read_bytes()
    if not data:
        raise ValueError("0 bytes")
    if path.suffix == ".jsonl":  # a kill may tear the last line
        lines = [json.loads(line) for line in data.decode().split("\n")[:-1]]
        return [{key: value for key, value in line.items() if key not in VARYING} for line in lines]
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".png":
        return open_image(path).tobytes()
    if path.suffix == ".tofc":
        return bytes(Packet.from_bytes(data))
    if path.suffix == ".json":
        return json.loads(data)
    if path.suffix == ".html" and not data.rstrip().endswith(b"</html>"):
        raise ValueError("the page has no end")
    return data


def _files(folder: Path) -> list[Path]:
    """Everything that has its final name."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path
        for path in found
        if not any(part.startswith(".") or part in VARYING for part in path.relative_to(folder).parts)
    ]


def prepare(folder: Path) -> None:
    """Writes configurations and a picture, and imports what the commands do, for the forked processes."""
    for module in IMPORTED:
        importlib.import_module(module)
    for name, values in CONFIGS.items():
        paths = {key: str(folder / value) for key, value in values.items() if str(value).startswith("whole/")}
        write_whole(folder / f"{name}.yaml", yaml.safe_dump(values | paths))
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")


def run_command(command: str, folder: Path, after: float | None) -> float:
    """Runs a command in `folder`, in a process of its own that is killed after so many seconds.

    Returns the seconds that it took, -1 where it was killed. RuntimeError where it fails by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(command, folder, log)
    deadline = None if after is None else started + after
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        return -1.0
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"tofc {command} ended with {os.WEXITSTATUS(status)}: {log.read_text()[-2000:]}")
    return time.monotonic() - started


def _become(command: str, folder: Path, log: Path) -> None:
    """Turns a forked process into a command."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.chdir(folder)
    state.draw_curves = _draw_pixel
    sys.argv, sys.stdout, sys.stderr = ["tofc", *command.split()], os.fdopen(1, "w"), os.fdopen(2, "w")
    code: Any = 1
    try:
        importlib.import_module("tofc.cli.app").run()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # what would end a process of its own
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _draw_pixel(entries: Sequence[Mapping[str, Any]], picture: Path) -> None:
    with whole_file(picture) as draft:
        Image.new("L", (1, 1)).save(draft)
