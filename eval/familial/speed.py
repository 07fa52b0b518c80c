"""What each member costs: decoding speed side by side in one process, and loading in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from tofc.config import resolve
from tofc.errors import UserError
from tofc.familial.branches import Branch, decomposed_block
from tofc.familial.decomposition import Spectrum, rank_for_ratio
from tofc.familial.index import INDEX
from tofc.familial.store import BASE, FAMILY, load_family, save_family
from tofc.familial.views import Family, main_spec
from tofc.language.prompt import Prompt
from tofc.language.sequences import Sequences

# The language model of llava-onevision-qwen2-0.5b-ov.
HALF_BILLION = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 152_000, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """A member's decoding at batch 1: milliseconds a token, and tokens a second over the full member's."""

    name: str
    num_parameters: int
    share: float
    step_ms: float
    speedup: float


@dataclass(frozen=True)
class Loading:
    """A member loaded alone into a process of its own: seconds, bytes from the disk, and memory at most.

    `disk_bytes` counts what the kernel fetched with nothing cached, its reading ahead included;
    `tensor_bytes` the weights that the process holds then; `peak_bytes` is the process' largest resident size
    above what it was before loading.
    """

    name: str
    seconds: float
    disk_bytes: int
    tensor_bytes: int
    peak_bytes: int


def open_family(source: str | Path, exit: str = "full", dtype: torch.dtype = torch.float32) -> Family:
    """The family of a checkpoint of tofc, or of a folder of a plain language model."""
    if (Path(source) / FAMILY / INDEX).is_file() and not (Path(source) / "config.json").exists():
        return load_family(source, exit, dtype)
    from tofc import Edge

    return Edge.from_pretrained(source, exit, dtype=dtype).family


def speeds(family: Family, rounds: int = 15, context: int = 96) -> list[Speed]:
    """One token of each member in turn, `rounds` times: medians.

    On a CPU the time is that of the process, which other work on the machine does not lengthen; it is that of
    a clock where one thread computes (OMP_NUM_THREADS=1).
    """
    on_cpu = family.language.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    exits = {member.name: family.exit(member.name) for member in family}
    running = {name: Sequences(family.language, [exit], keep=False) for name, exit in exits.items()}
    for name, sequences in running.items():
        sequences.extend([Prompt(torch.zeros(context, dtype=torch.int64), (), {})])
        sequences.run(name)
    taken: dict[str, list[float]] = {name: [] for name in exits}
    for _ in range(rounds):
        for name, sequences in running.items():
            start = clock()
            sequences.append([[0]])
            int(sequences.logits(name).argmax())  # the word is known
            taken[name].append(clock() - start)
    middle = {name: sorted(values)[rounds // 2] for name, values in taken.items()}
    return [
        Speed(m.name, m.num_parameters, m.share, 1e3 * middle[m.name], middle["full"] / middle[m.name])
        for m in family
    ]


def random_family(folder: Path, shape: dict[str, Any], exits: Sequence[int], dtype: torch.dtype) -> Path:
    """Writes a family of random weights: a plain language model, and a complete branch after each exit."""
    (folder / BASE).mkdir(parents=True)
    config = Qwen2Config(**shape)
    config.save_pretrained(folder / BASE)
    generator = torch.Generator().manual_seed(0)

    def fill(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
        return {n: 0.02 * torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}

    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
        blocks = {exit: model.model.layers[exit] for exit in exits}
    weights = fill(model)
    weights.pop("lm_head.weight", None)
    save_file(weights, folder / BASE / "model.safetensors")
    del weights
    branches = []
    for exit, block in blocks.items():
        branch = Branch(f"e{exit}", exit, [decomposed_block(block, _Empty(block))], (0.5, 1.0))
        branch.load_state_dict(fill(branch), assign=True)
        branches.append(branch)
    save_family(folder / FAMILY, folder / BASE, main_spec(model), branches, dtype)
    return folder


class _Empty(dict[str, Spectrum]):
    """Spectra without numbers, of the right shapes."""

    def __init__(self, block: torch.nn.Module) -> None:
        for name, layer in block.named_modules():
            if isinstance(layer, torch.nn.Linear):
                rank = rank_for_ratio(layer.out_features, layer.in_features, 1.0)
                shapes = ((layer.out_features, rank), (rank,), (rank, layer.in_features))
                self[name] = Spectrum(*(torch.empty(shape, device="meta") for shape in shapes))


def loading(source: str | Path, name: str, dtype: str = "bfloat16") -> Loading:
    """Loads a member in a new process with none of its files in the page cache."""
    command = [sys.executable, "-m", "eval.familial", "load", str(source), "--exit", name, "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{name} could not be loaded: {done.stderr.strip().splitlines()[-1]}")
    return Loading(**json.loads(done.stdout.splitlines()[-1]))


def load_here(source: str, name: str, dtype: torch.dtype) -> Loading:
    """Loads a member and says what that took; Linux alone tells."""
    if not Path("/proc/self/io").exists():
        raise UserError("bytes from the disk are counted by Linux alone (/proc/self/io)")
    _forget(source)
    before, resident = _disk_bytes(), _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.perf_counter()
    family = open_family(source, name, dtype)
    model = family.model(name)
    seconds = time.perf_counter() - start
    tensors = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    peak = _status("VmHWM") - resident
    return Loading(name, seconds, _disk_bytes() - before, sum(tensors.values()), peak)


def _forget(source: str) -> None:
    """Drops the files of a family from the page cache."""
    folder = Path(source) if Path(source).is_dir() else Path(resolve(source).folder)
    for file in folder.rglob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _disk_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))
