"""A device without torch: the same features, clusters and bytes as with it, where there is none."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize as resize_tensor
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    unpad_image,
)
from typer.testing import CliRunner

import tofc
from encoders import VisionEncoder, dpc_knn
from tofc.cli.app import app
from tofc.errors import UserError
from tofc.ondevice.export import TOLERANCE, export_device, write_tower
from tofc.ondevice.resample import resize
from tofc.tiling import Geometry, tile_layout
from tofc.vision import TorchVision

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("torch", "torchvision", "transformers", "tokenizers", "huggingface_hub", "onnx", "onnxscript")


@pytest.fixture(scope="module")
def exported_folder(anyres_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the command, as users write it."""
    folder = tmp_path_factory.mktemp("devices") / "camera"
    done = CliRunner().invoke(app, ["export-device", str(anyres_folder), "--out", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["files"].keys() == {"vision.onnx", "codec-integer.safetensors", "device.json"}
    assert result["largest_difference"] < TOLERANCE
    return folder


@pytest.fixture(scope="module")
def exported(exported_folder: Path) -> tofc.Device:
    return tofc.Device.from_pretrained(exported_folder)


@pytest.fixture(scope="module")
def with_torch(anyres_folder: Path) -> tofc.Device:
    return tofc.Device.from_pretrained(anyres_folder)


@pytest.fixture(scope="module")
def edge(anyres_folder: Path) -> tofc.Edge:
    return tofc.Edge.from_pretrained(anyres_folder)


# -- the same as with torch --


@pytest.mark.parametrize("size", [(48, 48), (130, 61), (400, 300)])
def test_features_and_clusters_are_those_of_torch(exported, with_torch, make_picture, size) -> None:
    """Of the same pixels: features within the tolerance, and every token in the same cluster."""
    tiles = exported.vision.cut([make_picture(*size)], "anyres")
    (ours,) = exported.vision.see(tiles)
    (theirs,) = with_torch.vision.see([torch.from_numpy(tile) for tile in tiles])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=TOLERANCE)
    for tokens in (1, 7, 20):
        np.testing.assert_array_equal(
            dpc_knn(ours.reshape(1, -1, ours.shape[2]), tokens).assignment,
            dpc_knn(theirs.reshape(1, -1, ours.shape[2]), tokens).assignment,
        )


@pytest.mark.parametrize("tokens", [1, 9, 20, "all"])
@pytest.mark.parametrize("quality", [1, 8])
def test_equal_features_give_equal_bytes(exported, with_torch, picture, tokens, quality) -> None:
    seen = exported.features(picture, "all")
    as_tensor = tofc.Features(torch.from_numpy(seen.tokens), seen.image_size, seen.tiling, seen.layout)
    ours = exported.encode_features(exported.merge(seen, tokens), quality)
    theirs = with_torch.encode_features(with_torch.merge(as_tensor, tokens), quality)
    assert bytes(ours) == bytes(theirs)


@pytest.mark.parametrize("way", ["spread", "blocks"])
def test_every_way_of_merging_gives_equal_bytes(exported, with_torch, edge, picture, way: str) -> None:
    def merging(device: tofc.Device) -> tofc.Device:
        merging = dataclasses.replace(device.config.merging, way=way)
        return tofc.Device(device.vision, dataclasses.replace(device.config, merging=merging), device.codec)

    seen = exported.features(picture, "all")
    as_tensor = tofc.Features(torch.from_numpy(seen.tokens), seen.image_size, seen.tiling, seen.layout)
    for tokens in (2, 20):
        ours, theirs = merging(exported).merge(seen, tokens), merging(with_torch).merge(as_tensor, tokens)
        packet = merging(exported).encode_features(ours)
        assert bytes(packet) == bytes(merging(with_torch).encode_features(theirs))
        assert len(edge.decode(packet)) == tokens


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 8, "tokens": 5},
        {"tokens": "all"},
        {"max_bytes": 90},
        {"quality": 2, "progressive": True},
    ],
)
def test_packets_decode_at_an_edge_with_torch(exported, edge, make_picture, options) -> None:
    for images in (make_picture(130, 61), [make_picture(100, 70), make_picture(60, 90, seed=1)]):
        packet = exported.encode(images, **options)
        assert len(bytes(packet)) <= options.get("max_bytes", 10**6)
        pictures = edge.decode_features(bytes(packet))
        assert sum(p.tokens.shape[0] for p in pictures) == packet.num_tokens
        assert packet.timing.keys() >= {"preprocess", "vision", "merge", "code"}


def test_pictures_of_the_tile_size_have_equal_pixels(exported, with_torch, make_picture) -> None:
    """Where nothing is resized there is nothing to differ in: to the bit, for every tiling."""
    square, wide = make_picture(48, 48), make_picture(96, 48)
    for tiling in ("base", "padded"):
        ours = exported.vision.cut([square, square], tiling)
        theirs = with_torch.vision.cut([square, square], tiling)
        np.testing.assert_array_equal(ours, np.stack([tile.numpy() for tile in theirs]))
    ours, theirs = exported.vision.cut([wide], "anyres")[0], with_torch.vision.cut([wide], "anyres")[0]
    assert ours.shape == (3, 3, 48, 48)
    np.testing.assert_array_equal(ours[1:], theirs[1:].numpy())


@pytest.mark.parametrize("tiling", ["base", "anyres", "padded"])
def test_resized_pictures_have_equal_pixels(exported, with_torch, make_picture, tiling: str) -> None:
    pictures = [make_picture(*size) for size in ((100, 70), (61, 130), (300, 200), (30, 20), (48, 130))]
    ours, theirs = exported.vision.cut(pictures, tiling), with_torch.vision.cut(pictures, tiling)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, their.numpy())


@given(
    st.tuples(*[st.integers(1, 90)] * 4), st.sampled_from([2, 3]), st.booleans(), st.integers(0, 2**32 - 1)
)
@settings(max_examples=150)
def test_resizing_is_torchvisions_to_the_byte(sizes, resample: int, noise: bool, seed: int) -> None:
    height, width, *size = sizes
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, 3)) if noise else 255 * rng.integers(0, 2, (height, 1, 3))
    picture = np.broadcast_to(values, (height, width, 3)).astype(np.uint8)
    mode = {2: InterpolationMode.BILINEAR, 3: InterpolationMode.BICUBIC}[resample]
    channels_first = torch.from_numpy(picture).permute(2, 0, 1)
    theirs = resize_tensor(channels_first, size, interpolation=mode, antialias=True)
    ours = resize(picture, (size[0], size[1]), resample)
    np.testing.assert_array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_a_filter_that_only_pytorch_has_is_named() -> None:
    with pytest.raises(UserError, match="filter 1; without PyTorch"):
        resize(np.zeros((4, 4, 3), np.uint8), (2, 2), resample=1)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=300)
def test_tiles_lie_where_the_stock_model_has_them(height: int, width: int, rows: int, columns: int) -> None:
    pinpoints = [[48 * r, 48 * c] for r in range(1, rows + 1) for c in range(1, columns + 1)]
    geometry = Geometry(48, 8, tuple((r, c) for r, c in pinpoints))
    layout = tile_layout((height, width), "anyres", geometry)
    stock_rows, stock_columns = get_anyres_image_grid_shape((height, width), pinpoints, 48)
    index = torch.arange(36, 36 + 36 * stock_rows * stock_columns)
    index = index.view(stock_rows, stock_columns, 6, 6).permute(0, 2, 1, 3).reshape(1, 6 * stock_rows, -1)
    shown = unpad_image(index, (height, width))[0]
    assert layout.grid == tuple(shown.shape)
    np.testing.assert_array_equal(layout.positions[36:], shown.flatten())


# -- without torch --


def without_torch(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process where importing torch, and what goes with it, fails."""
    blocker = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {BLOCKED}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", blocker + script, *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_device_encodes_without_torch(exported, exported_folder, edge, make_picture, tmp_path) -> None:
    make_picture(130, 61).save(tmp_path / "street.png")
    script = (
        "import tofc\n"
        "device = tofc.Device.from_pretrained(sys.argv[1])\n"
        "packet = device.encode(sys.argv[2], quality=5, tokens=11)\n"
        "open(sys.argv[3], 'wb').write(bytes(packet))\n"
        "assert 'torch' not in sys.modules\n"
    )
    out = tmp_path / "street.tofc"
    done = without_torch(script, str(exported_folder), str(tmp_path / "street.png"), str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == bytes(exported.encode(tmp_path / "street.png", quality=5, tokens=11))
    assert edge.decode(out.read_bytes()).shape == (11, 32)


def test_the_command_line_encodes_without_torch(exported_folder, make_picture, tmp_path) -> None:
    make_picture(60, 60).save(tmp_path / "street.png")
    script = "from tofc.cli import main; sys.argv[0] = 'tofc'; main()"
    options = [str(tmp_path / "street.png"), "-o", str(tmp_path / "a.tofc"), "--json"]
    done = without_torch(script, "encode", *options, "--model", str(exported_folder))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "a.tofc").stat().st_size


def test_what_needs_torch_says_how_to_get_it() -> None:
    script = (
        "import tofc, encoders, entropy\n"
        "for wanted in (\n"
        "    lambda: tofc.Edge, lambda: tofc.Device.from_pretrained('scenes-tiny'),\n"
        "    lambda: encoders.VisionEncoder, lambda: entropy.TrainableCodec,\n"
        "):\n"
        "    try:\n        wanted()\n"
        "    except (tofc.UserError, ImportError) as error:\n        print(error)\n"
    )
    done = without_torch(script)
    assert len(done.stdout.splitlines()) == 4, done.stderr
    assert all("pip install 'tofc[edge]'" in line for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "command", [["ask", "{png}", "Why?"], ["export-device", "scenes-tiny", "--out", "{out}"]]
)
def test_commands_that_need_torch_say_how_to_get_it(command, make_picture, tmp_path) -> None:
    make_picture(60, 60).save(tmp_path / "street.png")
    names = {"png": tmp_path / "street.png", "out": tmp_path / "out"}
    script = "from tofc.cli import main; sys.argv[0] = 'tofc'; main()"
    done = without_torch(script, *[part.format(**names) for part in command])
    assert done.returncode == 2
    assert "pip install 'tofc[edge]'" in done.stderr
    assert not (tmp_path / "out").exists()


# -- the export itself --


def test_published_towers_can_be_exported(tmp_path: Path) -> None:
    """so400m's width, heads, patches and 384 pixels, with one block: 729 tokens of 1152 channels."""
    config = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_attention_heads=16, num_hidden_layers=1,
        image_size=384, patch_size=14, vision_use_head=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = SiglipVisionModel(config).half().float().eval().requires_grad_(False)
    vision = TorchVision(VisionEncoder(tower).eval(), None, None)
    write_tower(vision, tmp_path / "vision.onnx")
    weights = sum(p.numel() for p in vision.encoder.parameters())
    assert (tmp_path / "vision.onnx").stat().st_size < 2.05 * weights, "half precision takes two bytes"
    session = onnxruntime.InferenceSession(tmp_path / "vision.onnx", providers=["CPUExecutionProvider"])
    pixels = torch.randn(1, 3, 384, 384, generator=torch.Generator().manual_seed(0))
    (features,) = session.run(["features"], {"pixels": pixels.numpy()})
    assert features.shape == (1, 729, 1152)
    np.testing.assert_allclose(features, vision.see([pixels])[0].numpy(), rtol=0, atol=TOLERANCE)


def test_nothing_else_is_overwritten(anyres_folder: Path, exported_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(tofc.UserError, match="not empty: give another folder"):
        export_device(anyres_folder, tmp_path, replace=True)
    with pytest.raises(tofc.UserError, match="--replace"):
        export_device(anyres_folder, exported_folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_plain_models_have_nothing_to_export(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(tofc.CheckpointError, match="no codec"):
        export_device(base_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def damage(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("vision.onnx", lambda data: data[:1000], "export it again"),
        ("vision.onnx", lambda data: b"", "export it again"),
        ("device.json", lambda data: data.replace(b'"format_version": 1', b'"format_version": 9'), "release"),
        ("device.json", lambda data: data.replace(b'"width": 32', b'"width": 33'), "export it again"),
        ("device.json", lambda data: b"{", "not JSON"),
        ("codec-integer.safetensors", lambda data: data[:100], "damaged"),
    ],
)
def test_damaged_exports_are_refused(exported_folder, tmp_path, name, change, message) -> None:
    folder = shutil.copytree(exported_folder, tmp_path / "camera")
    damage(folder, name, change)
    with pytest.raises(tofc.UserError, match=message):
        tofc.Device.from_pretrained(folder)


@pytest.mark.parametrize("name", ["vision.onnx", "codec-integer.safetensors"])
def test_missing_files_are_named(exported_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(exported_folder, tmp_path / "camera")
    (folder / name).unlink()
    with pytest.raises(tofc.CheckpointError, match=name):
        tofc.Device.from_pretrained(folder)


def test_an_export_runs_on_the_processor_alone(exported_folder: Path) -> None:
    with pytest.raises(tofc.UserError, match="leave device and dtype out"):
        tofc.Device.from_pretrained(exported_folder, dtype="float16")


def test_an_edge_says_what_an_export_is(exported_folder: Path) -> None:
    with pytest.raises(tofc.CheckpointError, match="export for devices"):
        tofc.Edge.from_pretrained(exported_folder)


def test_geometry_is_that_of_the_config(exported, with_torch) -> None:
    assert exported.base_config == Geometry.of(with_torch.base_config)
