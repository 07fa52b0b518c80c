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
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize as resize_tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaOnevisionConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    unpad_image,
)
from typer.testing import CliRunner

import tofc
from encoders import VisionEncoder, dpc_knn
from tofc.adapters import TOWER, add_adapters
from tofc.cli.app import app
from tofc.config import bundled_names
from tofc.errors import UserError
from tofc.model import tower_dtype
from tofc.ondevice import load_checkpoint
from tofc.ondevice.calibration import calibrate, decibels
from tofc.ondevice.checkpoint import DeviceConfig, PixelConfig, TowerWeights
from tofc.ondevice.export import TOLERANCE, export_device, write_tower
from tofc.ondevice.graph import PRODUCTS, TowerGraph
from tofc.ondevice.pixels import resize
from tofc.ondevice.vision import start
from tofc.tiling import Geometry, tile_layout, tiles_at_once

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("torch", "torchvision", "transformers", "tokenizers", "huggingface_hub", "onnxscript")


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
        PixelConfig((0.5,) * 3, (0.5,) * 3, resample=1)


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


def without_torch(
    script: str, *arguments: str, blocked: tuple[str, ...] = BLOCKED
) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process where importing torch, and what goes with it, fails."""
    blocker = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked}:\n"
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
    arguments = (str(exported_folder), str(tmp_path / "street.png"), str(out))
    done = without_torch(script, *arguments, blocked=(*BLOCKED, "onnx"))
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


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_models_encode_without_torch(name: str, tmp_path) -> None:
    """From the checkpoint as it is: no export, no torch; what it sends is what it would send with torch."""
    script = (
        "import tofc\n"
        "packet = tofc.Device.from_pretrained(sys.argv[1]).encode(sys.argv[2])\n"
        "open(sys.argv[3], 'wb').write(bytes(packet))\n"
    )
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    done = without_torch(script, name, str(tmp_path / "a.png"), str(tmp_path / "a.tofc"))
    assert done.returncode == 0, done.stderr
    packet = tofc.Packet.from_bytes((tmp_path / "a.tofc").read_bytes())
    device = tofc.Device.from_pretrained(name, runtime="torch")
    seen = device.features(tmp_path / "a.png")
    decoded = device.codec.decode(packet.payload)
    expected = device.codec.reconstruct(seen.tokens.numpy(), device.config.default_quality)
    assert decibels(expected, decoded) > 20  # a value that is rounded the other way is a whole step away


def test_the_command_line_leaves_torch_out_where_it_can(make_picture, tmp_path: Path) -> None:
    """Importing it takes longer than everything else that `tofc encode` does."""
    make_picture(60, 60).save(tmp_path / "street.png")
    script = (
        "import atexit, sys; from tofc.cli import main; sys.argv[0] = 'tofc'\n"
        f"heavy = {BLOCKED}\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\n"
        "main()\n"
    )
    done = without_torch(
        script, "encode", str(tmp_path / "street.png"), "-o", str(tmp_path / "a.tofc"), blocked=()
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_device_without_libraries_says_what_is_missing() -> None:
    script = (
        "import tofc\n"
        "try:\n    tofc.Device.from_pretrained('scenes-tiny')\n"
        "except tofc.UserError as error:\n    print(error)\n"
    )
    done = without_torch(script, blocked=(*BLOCKED, "onnx"))
    assert "needs onnx, which is not installed: pip install 'tofc[device]'" in done.stdout, done.stderr


def test_what_needs_torch_says_how_to_get_it() -> None:
    script = (
        "import tofc, encoders, entropy\n"
        "for wanted in (\n"
        "    lambda: tofc.Edge, lambda: tofc.Device.from_pretrained('scenes-tiny', runtime='torch'),\n"
        "    lambda: encoders.VisionEncoder, lambda: entropy.TrainableCodec,\n"
        "):\n"
        "    try:\n        wanted()\n"
        "    except (tofc.UserError, ImportError) as error:\n        print(error)\n"
    )
    done = without_torch(script)
    assert len(done.stdout.splitlines()) == 4, done.stderr
    assert all("pip install 'tofc[edge]'" in line for line in done.stdout.splitlines())


def test_commands_that_need_torch_say_how_to_get_it(make_picture, tmp_path) -> None:
    make_picture(60, 60).save(tmp_path / "street.png")
    script = "from tofc.cli import main; sys.argv[0] = 'tofc'; main()"
    done = without_torch(script, "ask", str(tmp_path / "street.png"), "Why?")
    assert done.returncode == 2
    assert "pip install 'tofc[edge]'" in done.stderr


# -- the export itself --


def described(side: int, patch: int, width: int, precision: str) -> DeviceConfig:
    """The config of a device with a tower of this shape."""
    pixels = PixelConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return DeviceConfig("a", "", width, Geometry(side, patch, ((side, side),)), pixels, precision=precision)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_published_towers_can_be_exported(tmp_path: Path, precision: str) -> None:
    """so400m's width, heads, patches and 384 pixels, with one block: 729 tokens of 1152 channels."""
    config = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_attention_heads=16, num_hidden_layers=1,
        image_size=384, patch_size=14, vision_use_head=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SiglipVisionModel(config).half().save_pretrained(tmp_path / "tower")
    encoder = VisionEncoder.from_pretrained(tmp_path / "tower")
    weights = TowerWeights.open(tmp_path / "tower", None)
    write_tower(weights, tmp_path / "vision.onnx", described(384, 14, 1152, precision))
    count = sum(p.numel() for p in encoder.parameters())
    at_most = 2.05 if precision == "float32" else 1.25  # half precision takes two bytes; so do embeddings
    assert (tmp_path / "vision.onnx").stat().st_size < at_most * count
    session = onnxruntime.InferenceSession(tmp_path / "vision.onnx", providers=["CPUExecutionProvider"])
    pixels = torch.randn(1, 3, 384, 384, generator=torch.Generator().manual_seed(0))
    (features,) = session.run(["features"], {"pixels": pixels.numpy()})
    assert features.shape == (1, 729, 1152)
    with torch.no_grad():
        expected = encoder(pixels).numpy()
    assert np.abs(features - expected).max() <= (TOLERANCE if precision == "float32" else 0.1)


@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu", "quick_gelu"])
@pytest.mark.parametrize("drop_cls", [True, False, None])
def test_graphs_of_all_towers_give_torchs_features(tmp_path: Path, activation: str, drop_cls) -> None:
    """CLIP with and without its CLS token, and SigLIP (None), an inner hidden state, bfloat16 weights."""
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3,
        "image_size": 28, "patch_size": 7, "hidden_act": activation,
    }  # fmt: skip
    kind = SiglipVisionModel if drop_cls is None else CLIPVisionModel
    config = (
        SiglipVisionConfig(**sizes, vision_use_head=False) if drop_cls is None else CLIPVisionConfig(**sizes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        kind(config).bfloat16().save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw |= {"vision_feature_layer": -2}
    raw |= {} if drop_cls is None else {"vision_feature_select_strategy": "default" if drop_cls else "full"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = VisionEncoder.from_pretrained(tmp_path)(pixels).numpy()
    graph = TowerGraph(TowerWeights.open(tmp_path, None)).tower().SerializeToString()
    (features,) = start(graph, "tower").run(["features"], {"pixels": pixels.numpy()})
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_precisions_send_nearly_the_same(
    anyres_folder, exported, edge, make_picture, tmp_path, precision
):
    """The codec's fingerprint stays, so every edge reads the packets; features are close, and said to be."""
    pictures = [make_picture(130, 61), make_picture(60, 90, seed=1)]
    done = export_device(anyres_folder, tmp_path / "d", precision=precision, pictures=pictures)
    assert len(done.losses) == (2 * 4 if precision == "int8" else 0)
    device = tofc.Device.from_pretrained(tmp_path / "d")
    assert device.codec.fingerprint == exported.codec.fingerprint
    for picture in pictures:
        ours, exact = (d.features(picture, "all").tokens for d in (device, exported))
        assert decibels(exact, ours) > (60 if precision == "float16" else 30)
        assert edge.decode(device.encode(picture, quality=8)).shape[1] == 32


def test_products_that_lose_too_much_stay_in_float(anyres_folder, picture, tmp_path) -> None:
    done = export_device(anyres_folder, tmp_path / "d", precision="int8", pictures=[picture], least_snr=200)
    assert all(loss.stays_float for loss in done.losses)
    assert done.largest_difference < TOLERANCE


def test_outlier_channels_leave_the_others_their_precision(anyres_folder: Path, picture) -> None:
    """One channel a thousand times the others, as large towers have them, costs a product at most 10 dB."""
    weights = TowerWeights.open(anyres_folder / "base", None)
    rng = np.random.default_rng(0)
    seen = {
        product: rng.standard_normal((1, 64, 64 if product == "fc2" else 32)).astype(np.float32)
        for product in PRODUCTS
    }
    plain = {loss.name: loss.snr for loss, _ in calibrate(weights, 0, seen, 30.0)}
    for values in seen.values():
        values[..., 3] *= 1000
    outliers = {loss.name: loss.snr for loss, _ in calibrate(weights, 0, seen, 30.0)}
    assert all(outliers[name] > plain[name] - 10 for name in plain)


def test_adapters_are_in_the_graph_as_two_factors(tmp_path: Path, anyres_folder: Path) -> None:
    """Folding them in torch or in the graph is the same, and the file grows by the factors alone."""
    rng = np.random.default_rng(0)
    stem = "base_model.model.model.vision_tower.encoder.layers.1.mlp.fc1"
    left, right = (
        rng.standard_normal((64, 2)).astype(np.float32),
        rng.standard_normal((2, 32)).astype(np.float32),
    )
    adapters = {f"{stem}.lora_A.weight": right, f"{stem}.lora_B.weight": left}
    (tmp_path / "adapters").mkdir()
    save_file(adapters, tmp_path / "adapters" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 1, "r": 2}
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(config))
    base = anyres_folder / "base"
    plain, tuned = (TowerWeights.open(base, folder) for folder in (None, tmp_path / "adapters"))
    sizes = [len(TowerGraph(weights).tower().SerializeToString()) for weights in (plain, tuned)]
    assert 0 < sizes[1] - sizes[0] < left.nbytes + right.nbytes + 500
    encoder = VisionEncoder.from_pretrained(base)
    add_adapters(encoder.tower, tmp_path / "adapters", TOWER)
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder(pixels).numpy()
    graph = TowerGraph(tuned).tower().SerializeToString()
    (features,) = start(graph, "tower").run(["features"], {"pixels": pixels.numpy()})
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


def test_large_weights_lie_beside_the_graph(
    anyres_folder, exported_folder, exported, picture, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("tofc.ondevice.export._INSIDE", 0)
    export_device(anyres_folder, tmp_path / "d")
    sizes = [(folder / "vision.onnx").stat().st_size for folder in (tmp_path / "d", exported_folder)]
    assert sizes[0] < sizes[1] / 2, "the weights are in the graph"
    device = tofc.Device.from_pretrained(tmp_path / "d")
    assert bytes(device.encode(picture)) == bytes(exported.encode(picture))


def test_tiles_that_do_not_fit_at_once_go_one_after_another(exported, with_torch, make_picture, monkeypatch):
    images = [make_picture(130, 61), make_picture(96, 96, seed=1)]
    for device, module in ((exported, "tofc.ondevice.vision"), (with_torch, "tofc.vision")):
        tiles = device.vision.cut(images, "anyres")
        together = device.vision.see(tiles)
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.tiles_at_once", lambda *shape: 2)
            apart = device.vision.see(tiles)
        for one, other in zip(together, apart, strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=1e-5)


def test_a_pass_takes_what_memory_allows() -> None:
    assert tiles_at_once(729, 1152) == 6, "so400m: 80 MB a tile, 512 MiB"
    assert tiles_at_once(729, 1152, budget=1) == 1


@pytest.mark.parametrize("able, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_large_towers_are_computed_in_bfloat16_where_that_is_fast(monkeypatch, able, expected) -> None:
    monkeypatch.setattr("tofc.model._multiplies_bfloat16", lambda: able)
    so400m = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26}
    large, small = (
        LlavaOnevisionConfig(vision_config={"model_type": "siglip_vision_model", **shape})
        for shape in (so400m, {**so400m, "num_hidden_layers": 2})
    )
    cpu = torch.device("cpu")
    assert tower_dtype(None, cpu, large) is expected
    assert tower_dtype(None, cpu, small) is torch.float32
    assert tower_dtype("float32", cpu, large) is torch.float32


def test_a_runtime_is_asked_for_by_name(checkpoint_folder: Path) -> None:
    for wrong in ({"runtime": "tensorrt"}, {"runtime": "onnxruntime", "dtype": "float16"}):
        with pytest.raises(tofc.UserError, match=r"choose|leave device and dtype out"):
            tofc.Device.from_pretrained(checkpoint_folder, **wrong)
    device = tofc.Device.from_pretrained(checkpoint_folder, runtime="onnxruntime")
    assert isinstance(device.features(np.zeros((48, 48, 3), np.uint8)).tokens, np.ndarray)


def test_the_command_says_what_int8_costs(anyres_folder: Path, make_picture, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        make_picture(60, 60, seed=seed).save(tmp_path / "photos" / f"{seed}.png")
    export = ["export-device", str(anyres_folder), "--out", str(tmp_path / "d"), "--precision", "int8"]
    asked = [*export, "--calibrate", str(tmp_path / "photos"), "--ask", "What is it?", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(said["layers"]) == 8
    assert said["changed_answers"] in (0, 1, 2)
    benched = CliRunner().invoke(app, ["bench-device", str(tmp_path / "d"), "--rounds", "1", "--json"])
    assert benched.exit_code == 0, benched.output
    figures = json.loads(benched.stdout.strip().splitlines()[-1])
    assert figures["seconds"].keys() == {"preprocess", "vision", "merge", "code"}
    assert figures["link_seconds"]["1.0"][0] == pytest.approx(8e-6 * figures["packet_bytes"])


def test_large_towers_are_exported_before_they_are_run(anyres_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("tofc.ondevice._LARGEST", 1000)
    with pytest.raises(tofc.CheckpointError, match="run tofc export-device once"):
        load_checkpoint(anyres_folder)


def test_nothing_else_is_overwritten(anyres_folder: Path, exported_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(tofc.UserError, match="not empty: give another folder"):
        export_device(anyres_folder, tmp_path, replace_old=True)
    with pytest.raises(tofc.UserError, match="--replace"):
        export_device(anyres_folder, exported_folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_plain_models_have_nothing_to_export(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(tofc.CheckpointError, match="without codec"):
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
