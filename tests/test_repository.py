"""What the repository promises as a whole: who imports whom, what it ships, that its README is true."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("encoders", "entropy", "tofc", "eval")
FORBIDDEN: dict[str, set[str]] = {
    "encoders": {"entropy", "tofc", "eval"},
    "entropy": {"encoders", "tofc", "eval"},
    "tofc": {"eval"},  # its commands load it by name, inside a function
    "eval": set(),
}
# What a room may import when it is imported itself, beside itself and the standard library.
ALLOWED = {
    "encoders": {"torch", "transformers", "safetensors", "numpy", "numba"},
    "entropy": {"torch", "numpy", "numba"},
}
PICKLERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
MAX_LINES = 400
MAX_WEIGHT_BYTES = 48_000_000


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def runs_later(node: ast.AST) -> bool:
    """Whether what stands inside `node` does not run when the file is imported."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def imports(tree: ast.AST, *, at_import: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line) of every import; with `at_import` only of those that run when the file is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno
        elif not (at_import and runs_later(node)):
            yield from imports(node, at_import=at_import)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(room)
        for module, line in imports(parse(path), at_import=room == "tofc")
        if module.split(".")[0] in FORBIDDEN[room]
    ]
    assert not faults, "\n".join(faults)


def modules() -> dict[str, Path]:
    """Every module of the rooms by its dotted name."""
    found = {}
    for path in sources(*ROOMS):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """The modules among `names` that a file imports, anywhere but for its types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in names)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                part = f"{node.module}.{name.name}"
                yield from {part if part in names else str(node.module)} & names
        else:
            yield from imported(node, names)


def test_no_files_import_each_other() -> None:
    """Neither directly nor through others: taking away what needs no one, or nobody needs, leaves nothing."""
    found = modules()
    left = {name: set(imported(parse(path), set(found))) - {name} for name, path in found.items()}
    free = list(left)
    while free:
        needed = set().union(*left.values())
        free = [name for name, needs in left.items() if name not in needed or not needs & left.keys()]
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, "\n".join(f"{name} -> {sorted(needs & left.keys())}" for name, needs in left.items())


# Training runs blocks with gradients and without a cache.
BLOCK_RUNNERS = {"tofc/language/blocks.py", "tofc/training/forward.py"}


def test_decoder_blocks_are_run_in_one_place() -> None:
    """What calls a decoder block gives it rotary tables; what calls a whole model with a cache names that."""
    faults = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}"
        for path in sources(*ROOMS)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and {word.arg for word in node.keywords} & {"position_embeddings", "past_key_values", "use_cache"}
        and not any(word.arg == "use_cache" and ast.unparse(word.value) == "False" for word in node.keywords)
        and str(path.relative_to(ROOT)) not in BLOCK_RUNNERS
    ]
    assert not faults, "ask tofc.language: " + ", ".join(faults)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_load_only_their_libraries(room: str) -> None:
    known = ALLOWED[room] | set(sys.stdlib_module_names) | {room, "__future__"}
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports {module} at the top"
        for path in sources(room)
        for module, line in imports(parse(path), at_import=True)
        if not module.startswith(".") and module.split(".")[0] not in known
    ]
    assert not faults, "\n".join(faults)


def test_nobody_hides_the_builtin_eval() -> None:
    faults = []
    for path in sources(*ROOMS, "tests"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Import):
                bound = {name.asname or name.name.split(".")[0] for name in node.names}
                faults += [f"{path.relative_to(ROOT)}:{node.lineno}"] if "eval" in bound else []
    assert not faults, "write `from eval.x import y`: " + ", ".join(faults)


def test_nothing_runs_what_a_file_says() -> None:
    """No pickles; published open_clip files go through torch's reader of plain tensors, which runs none."""
    faults = []
    for path in sources(*ROOMS):
        for node in ast.walk(parse(path)):
            fault = None
            if isinstance(node, ast.Import):
                fault = next((name.name for name in node.names if name.name.split(".")[0] in PICKLERS), None)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS:
                fault = next((name.name for name in node.names if name.name != "UnpicklingError"), None)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "torch.save"}:
                plain = "weights_only=True" in [ast.unparse(word) for word in node.keywords]
                fault = None if plain else ast.unparse(node.func)
            faults += [f"{path.relative_to(ROOT)}:{node.lineno} {fault}"] if fault else []
    assert not faults, "\n".join(faults)


# What gives files their names; entropy knows no tofc, and gives its one file its name itself.
WRITERS = {"tofc/writing.py", "entropy/parameters.py"}
# Writes to what is no file of ours: a device or pipe that was asked for, and a switch of the system.
NO_FILES = {"tofc/cli/files.py", "eval/familial/speed.py"}


def writes_directly(call: ast.Call) -> bool:
    """Whether a call writes or renames something that is not called a draft."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    given = [*call.args, *(word.value for word in call.keywords)]
    modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    writes = (
        (owner == "os" and name in {"replace", "rename"})
        or (name == "replace" and len(call.args) == 1 and not call.keywords)
        or name in {"rename", "write_text", "write_bytes", "savefig", "savez"}
        or (name == "open" and any(re.fullmatch("[wx]b?[+]?", mode) for mode in modes))
    )
    return writes and not any(isinstance(one, ast.Name) and one.id == "draft" for one in ast.walk(call))


def test_rooms_write_drafts() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}"
        for path in sources(*ROOMS)
        if str(path.relative_to(ROOT)) not in WRITERS | NO_FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and writes_directly(node)
    ]
    assert not faults, "write drafts, with tofc.writing: " + ", ".join(faults)


def test_rooms_open_pictures_in_one_place() -> None:
    """Elsewhere Pillow would try every decoder it has, some of which run programs."""
    faults = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*ROOMS)
        if path != ROOT / "tofc" / "images.py"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Image.open"
        and "formats" not in {word.arg for word in node.keywords}
    ]
    assert not faults, "open pictures with tofc.images.open_image: " + ", ".join(faults)


def test_every_folder_of_code_is_a_package() -> None:
    bare = {path.parent for path in sources(*ROOMS) if not (path.parent / "__init__.py").is_file()}
    assert not bare, f"without __init__.py they are left out of the wheel: {sorted(map(str, bare))}"


def test_files_are_one_idea_each() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*ROOMS)}
    long = [
        f"{path.relative_to(ROOT)}: {length} lines" for path, length in lengths.items() if length > MAX_LINES
    ]
    assert not long, "split them: " + ", ".join(long)


def test_public_functions_are_described() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources(*ROOMS)
        for node in parse(path).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not faults, "\n".join(faults)


def test_a_name_of_a_class_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in sources(*ROOMS):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    several = {name: files for name, files in places.items() if len(files) > 1}
    assert not several, "name them after what they are: " + str(several)


# Functions whose many arguments are one each of what a compiled loop or a drawing takes.
WIDE = {"entropy/kernels.py", "eval/scenes/render_ground.py"}


def test_public_functions_take_few_arguments() -> None:
    faults = []
    for path in sources(*ROOMS):
        for node in ast.walk(parse(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                arguments = node.args
                names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                if count > 8 and str(path.relative_to(ROOT)) not in WIDE:
                    faults.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {count}")
    assert not faults, "put what belongs together into a dataclass: " + ", ".join(faults)


def test_bundled_weights_stay_small() -> None:
    weights = {path: path.stat().st_size for path in (ROOT / "tofc" / "assets").rglob("*") if path.is_file()}
    assert ROOT / "tofc" / "assets" / "scenes-tiny" / "config.json" in weights
    assert sum(weights.values()) <= MAX_WEIGHT_BYTES, weights


def test_bundled_models_are_described_by_what_they_know() -> None:
    """The page shows it under every answer; `checkpoint.knows` of a recipe puts it there."""
    for config in (ROOT / "tofc" / "assets").glob("*/config.json"):
        assert json.loads(config.read_text(encoding="utf-8")).get("knows"), f'{config}: say it in "knows"'


def test_no_file_names_a_machine() -> None:
    """Paths of somebody's machine or package indexes mean nothing on another."""
    telling = re.compile(r"(?<![\w.~/-])/(?:home|root|Users|work|opt|mnt)/\w|index-url|find-links")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    listed = [ROOT / name for name in names.split("\0") if name]
    assert listed or not (ROOT / ".git").exists()
    faults = []
    for path in listed or sources(*ROOMS):
        if (
            path.suffix not in {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg"}
            or not path.is_file()
        ):
            continue
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if telling.search(line):
                faults.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not faults, "\n".join(faults)


def test_importing_tofc_is_cheap() -> None:
    heavy = {"torch", "transformers", "numba", "numpy", "eval"}
    script = f"import sys, tofc; from tofc.cli.app import app; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_each_config_is_found_by_its_name() -> None:
    from tofc.config import find_config

    configs = sorted((ROOT / "configs").glob("*.yaml"))
    assert configs
    for config in configs:
        assert find_config(config.stem).samefile(config)


def test_ci_runs_make_test_and_what_it_would_like_to_have() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and line[0] != "#"]
    assert commands[-1] == "make test"
    assert all(line.startswith(("set ", "cd ", ".ci/browser")) for line in commands[:-1])
    assert all((ROOT / ".ci" / name).stat().st_mode & 0o111 for name in ("run", "browser"))


def test_the_log_is_read_in_a_terminal() -> None:
    for page in sorted((ROOT / "docs" / "log").glob("*.md")):
        lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        long = [number for number, line in lines if len(line) >= 120 and "|" not in line]
        assert not long, f"{page.name} has lines of 120 characters or more: {long}"


@pytest.mark.parametrize("user, words", [(0, "no browser could be installed"), (1000, "")])
def test_ci_goes_on_without_a_browser(tmp_path: Path, user: int, words: str) -> None:
    """Where nothing can be installed, or apt fails."""
    for name, line in (("id", f"echo {user}"), ("apt-get", "exit 100"), ("timeout", 'shift; "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", str(ROOT / ".ci" / "browser")],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert words in done.stderr
    assert bool(words) == bool(done.stderr)


# The README: what it shows must run.

README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def shown_commands() -> list[str]:
    lines = [line for block in fenced("console") for line in block.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ ")]


def test_readme_names_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.split()[1] for command in shown_commands() if command.startswith("make ")]
    assert targets[:2] == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_readme_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_readme_commands_run(tmp_path: Path) -> None:
    commands = [command for command in shown_commands() if command.startswith("tofc ")]
    assert len(commands) >= 4
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "tofc", *shlex.split(command)[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_readme_python_example_runs() -> None:
    names: dict[str, Any] = {}
    (example,) = fenced("python")
    exec(compile(example, "README.md", "exec"), names)
    assert isinstance(names["answer"].text, str)
    assert names["features"].ndim == 2
