"""What leaves the checkout: wheel and source distribution hold all that runs, and it runs from anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("encoders", "entropy", "tofc", "eval", "configs")
PICTURE = ROOT / "tofc" / "ui" / "static" / "examples" / "scene-126.webp"
BUILD = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"


def tracked(*folders: str) -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def build(kind: str, source: Path, target: Path) -> Path:
    """Calls the build backend as a frontend does, with the setuptools that is installed."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(target)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel of the checkout, and that of its source distribution."""
    folder = tmp_path_factory.mktemp("distributions")
    checkout = folder / "checkout"
    for name in tracked():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    with tarfile.open(build("sdist", checkout, folder)) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("tofc-*/")
    return build("wheel", checkout, folder), build("wheel", unpacked, unpacked)


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment with that of the source distribution, and with the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--no-compile", str(distributions[1])], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth names is searched last, and its own .pth files, an editable tofc, are not read.
    (packages / "libraries.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    return folder / "bin"


def run(command: list[str | Path], cwd: Path) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def contents(wheel: Path) -> dict[str, int]:
    """CRC of every file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def test_a_source_distribution_builds_the_same_wheel(distributions: tuple[Path, Path]) -> None:
    ours, unpacked = map(contents, distributions)
    assert ours == unpacked


def test_the_wheel_holds_every_file_of_the_rooms(distributions: tuple[Path, Path]) -> None:
    names = {re.sub("^configs/", "tofc/_configs/", name) for name in tracked(*ROOMS)}
    assert names <= contents(distributions[0]).keys()


def test_an_installation_answers_as_the_checkout_does(installed: Path, tmp_path: Path) -> None:
    import tofc
    from tofc.config import DEFAULT_MODEL

    assert run([installed / "tofc", "--version"], tmp_path).split()[-1] == tofc.__version__
    question = "How many cars are there?"
    asked = json.loads(run([installed / "tofc", "ask", PICTURE, question, "--json"], tmp_path))
    packet = tofc.Device.from_pretrained(DEFAULT_MODEL).encode(PICTURE)
    answer = tofc.Edge.from_pretrained(DEFAULT_MODEL).answer(packet, question)
    assert (asked["answer"], asked["bytes"]) == (answer.text, len(bytes(packet)))


def test_an_installation_finds_its_configs_and_is_found_by_lmms_eval(installed: Path, tmp_path: Path) -> None:
    assert "rate" in run([installed / "tofc", "eval", "--help"], tmp_path)
    script = """if True:
        import sys
        from importlib.metadata import entry_points
        from tofc.config import find_config
        (ours,) = entry_points(group="lmms_eval.models", name="tofc")
        print(sys.modules[ours.load().__module__].__file__)
        for name in sys.argv[1:]:
            print(find_config(name))
    """
    configs = [Path(name).stem for name in tracked("configs")]
    found = run([installed / "python", "-c", script, *configs], tmp_path).splitlines()
    assert len(found) == 1 + len(configs)
    assert all(Path(file).is_relative_to(installed.parent) for file in found)


# The lock.

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def locked() -> Iterator[Requirement]:
    return (Requirement(line) for line in LOCK.splitlines() if line and not line.startswith("#"))


def test_the_lock_pins_versions_and_names_no_index() -> None:
    assert not re.search(r"://|^\s*-|@", LOCK, flags=re.MULTILINE)
    for requirement in locked():
        assert re.fullmatch(r"==[^*+,]+", str(requirement.specifier)), requirement


def test_the_lock_holds_every_dependency_within_its_range() -> None:
    """Whoever changes a range or adds a dependency writes the lock anew: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pins: dict[str, list[str]] = {}
    for requirement in locked():
        (version,) = requirement.specifier
        pins.setdefault(canonicalize_name(requirement.name), []).append(version.version)
    for wanted in (Requirement(line) for group in groups for line in group):
        if wanted.name != "tofc":
            versions = pins.get(canonicalize_name(wanted.name), [])
            assert versions, f"{wanted.name} is not in requirements.lock: make lock"
            assert all(wanted.specifier.contains(version) for version in versions), (str(wanted), versions)


@pytest.mark.skipif(
    os.environ.get("TOFC_TEST_INDEX") != "1", reason="asks the package index; TOFC_TEST_INDEX=1 does"
)
def test_a_device_installs_from_wheels_on_aarch64(tmp_path: Path) -> None:
    """A resolution of the extra `device` for Linux on ARM in which nothing has to be compiled."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["device"]]
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 26, 17)]
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--only-binary=:all:",
            "--python-version=3.11", "--implementation=cp", *platforms, "--target", str(tmp_path / "none"),
            "--report", str(report), *wanted,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {entry["metadata"]["name"].lower() for entry in found}
    assert {"onnxruntime", "onnx", "numba", "llvmlite", "numpy", "safetensors"} <= names
