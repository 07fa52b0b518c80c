"""The three recipes of training as short runs of tiny models, one on the result of the other.

`python tests/tofc/recipes.py WHOLE BROKEN` starts each of them on the results of unbroken runs, and has it
killed twice: between two states, and when all is learned and nothing written.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tofc.config import from_mapping
from tofc.training import codec, family, pretrain
from tofc.training.family_settings import FamilyConfig
from tofc.training.loop import TrainingRun
from tofc.training.pretrain_settings import PretrainConfig
from tofc.training.settings import TrainConfig

SHAPE = {
    "image_size": 112, "patch_size": 16, "vision_width": 32, "vision_layers": 2, "vision_heads": 2,
    "text_width": 32, "text_layers": 3, "text_heads": 2, "text_mlp": 64, "vocab_size": 400,
}  # fmt: skip
SCENES = {
    "source": "eval.scenes.corpus:SceneCorpus",
    "options": {"size": 112, "questions": 3},
    "num_workers": 0,
    "tokenizer_texts": 300,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "seed": 5, "model": SHAPE, "data": SCENES, "precision": "fp32", "ways": ["dpc_knn", "spread"],
        "dense_batch": 3, "answer_batch": 3, "dense_steps": 20, "total_steps": 40,
        "layouts": {"12": 0.5, "49": 0.25, "stock": 0.25},
        "validation_pictures": 3, "validate_every": 20, "save_every": 20,
    },
    "codec": {
        "seed": 3, "data": SCENES, "precision": "fp32", "tokens": {"12": 0.7, "all": 0.3},
        "codec": {"width": 32, "experts": 2, "hyper": 4, "analysis_hidden": 16, "synthesis_hidden": 16,
                  "router_hidden": 8},
        "adapters": {"rank": 4, "alpha": 8, "learning_rate": 5e-3},
        "checkpoint": {"merging": {"tokens": 12}, "default_quality": 3}, "init_pictures": 4,
        "feature_steps": 4, "total_steps": 8, "batch_size": 3, "max_text_tokens": 96, "warmup_steps": 2,
        "validation_pictures": 3, "validate_every": 4, "log_every": 2, "save_every": 4,
    },
    "family": {
        "seed": 3, "data": SCENES, "precision": "fp32", "tokens": {"12": 1.0}, "main": "full", "kl": 0.3,
        "branches": [{"exit": 1, "ratios": [0.5, 1.0]}, {"exit": 2}], "calibration_pictures": 4,
        "choose": "loss", "members_per_step": 2, "total_steps": 8, "batch_size": 3, "max_text_tokens": 64,
        "warmup_steps": 2, "validation_pictures": 3, "validate_every": 4, "log_every": 2, "save_every": 4,
    },
}  # fmt: skip
BASES = {"codec": "pretrain/base", "family": "codec"}  # below the folder of the unbroken runs
KINDS: dict[str, tuple[type, Callable[..., TrainingRun]]] = {
    "pretrain": (PretrainConfig, pretrain.PretrainRun),
    "codec": (TrainConfig, codec.CodecRun),
    "family": (FamilyConfig, family.FamilyRun),
}


def make_run(name: str, whole: Path, folder: Path, **changes: Any) -> TrainingRun:
    """One of the recipes, on what unbroken runs left in `whole`; its own files go below `folder`."""
    config, kind = KINDS[name]
    base = {"base": str(whole / BASES[name])} if name in BASES else {}
    values = from_mapping(config, {**SETTINGS[name], **base, **changes}, name)
    return kind(values, folder / (name if name == "pretrain" else f"{name}-run"), Console(quiet=True))


def result(name: str, folder: Path) -> Path:
    """Where a recipe writes what was learned."""
    return folder / ("pretrain/base" if name == "pretrain" else name)


def killed(call: Callable[[], object]) -> None:
    """Runs `call` in a process that kills itself in it."""
    child = os.fork()
    if not child:
        call()
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WTERMSIG(status) == signal.SIGKILL, f"the run ended by itself: {status}"


def die() -> None:
    """Leaves no time for anything."""
    os.kill(os.getpid(), signal.SIGKILL)


def between_states(name: str, whole: Path, folder: Path) -> None:
    """Killed when there is a state, and the log has gone on since."""
    run = make_run(name, whole, folder)
    middle, step = run.total_steps // 2, run.train_step

    def counted(examples: list[Any]) -> dict[str, float]:
        if run.step == run.total_steps - 1:
            die()
        return step(examples)

    assert run.step < middle
    run.train_step = counted  # type: ignore[method-assign]  # on this instance alone
    run.train(result(name, folder))


def before_writing(name: str, whole: Path, folder: Path) -> None:
    """Goes on, and is killed with the last state on disk, while the result is written into a draft."""
    run = make_run(name, whole, folder)
    assert run.step == run.total_steps // 2
    module = sys.modules[type(run).__module__]
    what = "save_base" if name == "pretrain" else "save_checkpoint"
    write = getattr(module, what)

    def cut_short(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        die()

    if name != "pretrain":
        cut_short = lambda *_, **__: die()  # noqa: E731 - writes its own draft
    setattr(module, what, cut_short)
    run.train(result(name, folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    unbroken, broken = map(Path, sys.argv[1:])
    for recipe in KINDS:
        killed(lambda recipe=recipe: between_states(recipe, unbroken, broken))
        killed(lambda recipe=recipe: before_writing(recipe, unbroken, broken))
