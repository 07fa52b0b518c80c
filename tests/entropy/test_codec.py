from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entropy import FeatureCodec, StreamError
from entropy.parameters import write_tensors
from entropy.stream import cut

GOLDEN = Path(__file__).parent / "golden"
MAKE_GOLDEN = runpy.run_path(str(GOLDEN.parent / "make_golden.py"))
MakeCodec = Callable[..., FeatureCodec]
MakeFeatures = Callable[..., Tensor]


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 64, 1000])
@pytest.mark.parametrize("experts", [1, 4])
def test_decoding_gives_what_the_encoder_reconstructed(
    tokens: int, experts: int, codecs: MakeCodec, features: MakeFeatures
) -> None:
    codec = codecs(experts)
    values = features(1, tokens, seed=tokens)[0]
    for quality in codec.qualities:
        payload = codec.encode(values, quality)
        decoded = codec.decode(payload)
        assert decoded.dtype == np.float32
        assert decoded.shape == (tokens, codec.width)
        assert np.array_equal(decoded, codec.reconstruct(values, quality))
        assert (codec.num_tokens_of(payload), codec.quality_of(payload)) == (tokens, quality)


def test_size_is_the_ideal_and_a_few_bytes(codec: FeatureCodec, features: MakeFeatures) -> None:
    for tokens in (1, 10, 300):
        values = features(1, tokens)[0]
        for quality in codec.qualities:
            ideal = codec.estimate(values, quality) / 8
            assert ideal <= len(codec.encode(values, quality)) <= ideal * 1.001 + 5


def test_sections_sum_to_the_payload(codec: FeatureCodec, features: MakeFeatures) -> None:
    payload = codec.encode(features(1, 30)[0], 4)
    sections = codec.sections(payload)
    assert list(sections) == ["head", "router", "hyperprior", "features", "coder"]
    assert sum(sections.values()) == pytest.approx(len(payload))
    assert min(sections.values()) > 0
    assert codec.sections(codec.encode(features(1, 0)[0], 4))["head"] == 1


def test_higher_quality_costs_more_and_errs_less(codec: FeatureCodec, features: MakeFeatures) -> None:
    values = features(1, 200)[0]
    sizes = [len(codec.encode(values, quality)) for quality in codec.qualities]
    errors = [float(np.square(codec.reconstruct(values, q) - values.numpy()).mean()) for q in codec.qualities]
    assert sizes == sorted(set(sizes))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * float(values.var())


@pytest.mark.parametrize("first", [0, 24, 40])
def test_every_scale_can_be_coded(first: int, codec: FeatureCodec, features: MakeFeatures) -> None:
    """Streams over all Laplacian tables: the scales' heads replaced by ones that count."""
    values = features(1, 12)[0]
    layer = codec.scale[0].layers[0]
    flat = type(layer)(
        np.zeros_like(layer.weight),
        np.tile(np.arange(first, first + codec.width), (8, 1)).astype(np.int32),
        np.full(codec.width, 2, np.int32),
        np.ones(codec.width, np.uint8),
        layer.bounds,
    )
    tensors = codec.tensors()
    for expert in range(codec.num_experts):
        tensors |= type(codec.scale[0])((flat,)).tensors(f"scale.{expert}")
    counting = FeatureCodec.from_tensors(tensors)
    for quality in counting.qualities:
        seen = set(counting.scale_indices(values, quality).ravel().tolist())
        assert seen == set(range(first, first + codec.width))  # 0..23, 24..47, 40..63: all of them
        decoded = counting.decode(counting.encode(values, quality))
        assert np.array_equal(decoded, counting.reconstruct(values, quality))


def test_a_codec_where_one_expert_is_never_chosen(codec: FeatureCodec, features: MakeFeatures) -> None:
    tensors = codec.tensors()
    bias = tensors["router.1.bias"].copy()
    bias[:, 2] = -(2**24)
    tensors["router.1.bias"] = bias
    lonely = FeatureCodec.from_tensors(tensors)
    values = features(1, 100)[0]
    assert np.array_equal(lonely.decode(lonely.encode(values, 5)), lonely.reconstruct(values, 5))
    assert lonely.fingerprint != codec.fingerprint


# One result on every machine


def test_bytes_do_not_depend_on_type_batch_or_autocast(codec: FeatureCodec, features: MakeFeatures) -> None:
    values = features(1, 64)[0]
    payload = codec.encode(values, 4)
    assert codec.encode(values.numpy(), 4) == payload
    assert codec.encode(values.double(), 4) == payload
    assert codec.encode(np.asfortranarray(values.numpy()), 4) == payload
    assert codec.encode(values.clone().requires_grad_(), 4) == payload
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert codec.encode(values, 4) == payload
        assert np.array_equal(codec.decode(payload), codec.reconstruct(values, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bytes_do_not_depend_on_the_device(
    codec: FeatureCodec, features: MakeFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    values = features(1, 300)[0]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert codec.encode(values.cuda(), 4) == codec.encode(values, 4)
    assert np.array_equal(codec.scale_indices(values.cuda(), 6), codec.scale_indices(values, 6))


def test_bytes_do_not_depend_on_threads(codec: FeatureCodec, features: MakeFeatures, tmp_path: Path) -> None:
    """Processes with one and two threads in every library."""
    values = features(1, 700)[0].numpy()
    expected = [codec.encode(values, 5), codec.scale_indices(values, 5).tobytes()]
    codec.save(tmp_path)
    np.save(tmp_path / "values.npy", values)
    script = (
        "import sys, numpy as np, torch\n"
        "from entropy import FeatureCodec\n"
        "folder, threads = sys.argv[1], int(sys.argv[2])\n"
        "torch.set_num_threads(threads)\n"
        "codec, values = FeatureCodec.load(folder), np.load(folder + '/values.npy')\n"
        "payload = codec.encode(torch.from_numpy(values), 5)\n"
        "assert np.array_equal(codec.decode(payload), codec.reconstruct(values, 5))\n"
        "print(payload.hex(), codec.scale_indices(values, 5).tobytes().hex())\n"
    )
    for threads in ("1", "2"):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        told = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), threads],
            capture_output=True,
            text=True,
            check=True,
            cwd=GOLDEN.parents[2],
            env={**os.environ, **dict.fromkeys(names, threads)},
        )
        assert [bytes.fromhex(part) for part in told.stdout.split()] == expected


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_scale_indices_do_not_depend_on_company(
    batch: int, codec: FeatureCodec, features: MakeFeatures
) -> None:
    values = features(1, 448)[0]
    whole = codec.scale_indices(values, 6)
    parts = [codec.scale_indices(part, 6) for part in values.split(batch)]
    assert np.array_equal(np.concatenate(parts), whole)
    order = torch.randperm(448, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(codec.scale_indices(values[order], 6), whole[order.numpy()])
    decoded = codec.reconstruct(values, 6)
    assert np.array_equal(codec.reconstruct(values[order], 6), decoded[order.numpy()])


def test_golden_payloads() -> None:
    """Literal payloads of a committed codec, by `make_golden.py`; a change breaks written streams."""
    golden = json.loads((GOLDEN / "payloads.json").read_text())
    codec = FeatureCodec.load(GOLDEN)
    values = MAKE_GOLDEN["golden_features"]()
    assert codec.fingerprint.hex() == golden["fingerprint"]
    assert codec.encode(values[:0], 3).hex() == golden["empty"]
    for quality, payload in golden["payloads"].items():
        assert codec.encode(values, int(quality)).hex() == payload
        decoded = codec.decode(bytes.fromhex(payload))
        assert np.array_equal(decoded, codec.reconstruct(values, int(quality)))
        if quality in golden["decoded"]:
            assert decoded[0, :6].tolist() == golden["decoded"][quality]
    whole, ends = codec.encode_with_ends(values, 4)
    for num, payload in golden["cut"].items():
        assert cut(whole, int(num), int(ends[int(num) - 1])).hex() == payload
    assert codec.encode(values, 4, leading=(1, 5, 6)).hex() == golden["leading"]
    assert MAKE_GOLDEN["coder_vectors"]() == json.loads((GOLDEN / "coder.json").read_text())


# Damage


@functools.cache
def golden_codec() -> FeatureCodec:
    return FeatureCodec.load(GOLDEN)


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_payloads_raise_or_decode_to_whole_features(data: st.DataObject) -> None:
    """The coder's final state is a check of 23 bits; whatever slips through, a packet's checksum catches."""
    codec = golden_codec()
    values = MAKE_GOLDEN["golden_features"]()
    payload = codec.encode(values, data.draw(st.sampled_from(list(codec.qualities))))
    cut = data.draw(st.integers(0, len(payload) - 1))
    for damaged in (payload[:cut], payload + b"\0"):
        with pytest.raises(StreamError):
            codec.decode(damaged)
    flipped = bytearray(payload)
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        decoded = codec.decode(bytes(flipped))
    except StreamError:
        return
    assert decoded.shape[1] == codec.width
    assert np.isfinite(decoded).all()


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_raise_or_decode(payload: bytes) -> None:
    codec = golden_codec()
    for call in (codec.decode, codec.sections):
        with contextlib.suppress(StreamError):  # nothing else may come out
            call(payload)


@pytest.mark.parametrize(
    "payload, text",
    [
        (b"", "counts"),
        (b"\xff\xff", "counts"),
        (b"\xff\xff\xff\xff\xff\x01", "counts"),
        (b"\x80\x00", "shortest"),
        (b"\x80\x80\x40", "65536 tokens"),
        (b"\x00\x00", "no tokens"),
        (b"\x11\x00", "0 leading tokens"),
        (b"\x21\x04\x00", "2 leading tokens of 2"),
        (b"\x31\x02\xff", "leading tokens do"),
        (b"\x31\x02\xc0", "leading tokens are impossible"),
        (b"\x31\x02\x01", "leading tokens are impossible"),
        (b"\x10", "0 bytes"),
        (b"\x10\x00\xff\xff\xff", "zero byte"),
        (b"\x10\x7f", "1 bytes, too few"),
        (b"\x11\x01\x12\x34", "2 bytes, too few"),
        (b"\x10\x01\x23", "before its last symbol"),
    ],
)
def test_what_is_wrong_is_said(payload: bytes, text: str, codec: FeatureCodec) -> None:
    with pytest.raises(StreamError, match=text):
        codec.decode(payload)


def test_a_stream_of_another_codec_does_not_pass(codecs: MakeCodec, features: MakeFeatures) -> None:
    ours, theirs = codecs(seed=0), codecs(seed=1)
    assert ours.fingerprint != theirs.fingerprint
    assert len(ours.fingerprint) == 8
    payload = theirs.encode(features(1, 50)[0], 5)
    with pytest.raises(StreamError):
        ours.decode(payload)


# What the encoder refuses


@pytest.mark.parametrize(
    "value, text", [(np.nan, "token 3, channel 7"), (np.inf, "NaN or infinity"), (1e30, "reach")]
)
def test_encoder_refuses_values(value: float, text: str, codec: FeatureCodec, features: MakeFeatures) -> None:
    values = features(1, 10)[0]
    values[3, 7] = value
    for call in (codec.encode, codec.reconstruct, codec.estimate):
        with pytest.raises(ValueError, match=text):
            call(values, 4)


@pytest.mark.parametrize(
    "shape, text",
    [((3, 25), r"\[tokens, 24\], got \[3, 25\]"), ((24,), "tokens, 24"), ((65536, 24), "65536")],
)
def test_encoder_refuses_shapes(shape: tuple[int, ...], text: str, codec: FeatureCodec) -> None:
    with pytest.raises(ValueError, match=text):
        codec.encode(np.zeros(shape, np.float32), 4)


@pytest.mark.parametrize("quality", [0, 9, 2.5, True, "4", None])
def test_encoder_refuses_qualities(quality: object, codec: FeatureCodec) -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        codec.encode(np.zeros((1, 24), np.float32), quality)  # type: ignore[arg-type]  # what is tested


def test_features_at_the_edge_of_what_is_accepted(codec: FeatureCodec) -> None:
    far = (codec.center + 0.99 * codec.forward.reach)[None].repeat(2, axis=0).astype(np.float32)
    for quality in codec.qualities:
        decoded = codec.decode(codec.encode(far, quality))
        assert np.array_equal(decoded, codec.reconstruct(far, quality))
        assert np.isfinite(decoded).all()


# On disk


def test_saved_codec_is_the_same(codec: FeatureCodec, tmp_path: Path, features: MakeFeatures) -> None:
    path = codec.save(tmp_path / "new")
    values = features(1, 20)[0]
    for source in (path, path.parent):
        loaded = FeatureCodec.load(source)
        assert loaded.fingerprint == codec.fingerprint
        assert loaded.encode(values, 4) == codec.encode(values, 4)


def test_loading_says_what_is_wrong(codec: FeatureCodec, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="codec-integer"):
        FeatureCodec.load(tmp_path)
    path = codec.save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="damaged"):
        FeatureCodec.load(tmp_path)
    from safetensors.numpy import save_file

    save_file(codec.tensors(), path)
    with pytest.raises(ValueError, match="version 1"):
        FeatureCodec.load(tmp_path)
    for lost in ("gains", "router.0.weight", "mean.1.0.bias", "tables.sizes"):
        write_tensors(path, {name: value for name, value in codec.tensors().items() if name != lost})
        with pytest.raises(ValueError, match="missing"):
            FeatureCodec.load(tmp_path)


WRONG = {
    "center": [lambda v: v[:-1], lambda v: v * np.nan, lambda v: v + 1e300, lambda v: v.astype(np.float32)],
    "forward.weight": [lambda v: v[:, :-1], lambda v: v[0], lambda v: v.astype(np.int32)],
    "forward.scale": [lambda v: v * np.inf, lambda v: v[None]],
    "inverse.weight": [lambda v: v[:-1]],
    "inverse.scale": [lambda v: v * 1e300, lambda v: v * 0 + 1e308, lambda v: v * np.nan],
    "inverse.grid": [lambda v: -v, lambda v: v[:0]],
    "gains": [lambda v: v[0], lambda v: v * np.nan, lambda v: v[:, :-1], lambda v: v * 0],
    "router.0.weight": [lambda v: v[:, :-1], lambda v: v.astype(np.float64), lambda v: v.reshape(-1)],
    "router.0.bias": [lambda v: v[:1], lambda v: v[0]],
    "analysis.0.0.weight": [lambda v: v[:, :-1]],
    "analysis.0.1.bounds": [
        lambda v: v + np.array([0, 0, 1], v.dtype),
        lambda v: v - np.array([0, 1, 0], v.dtype),
    ],
    "mean.0.0.weight": [lambda v: v[:, :-1], lambda v: v[:0]],
    "mean.0.0.bounds": [lambda v: v[:2], lambda v: v.astype(np.int64)],
    "scale.0.0.shift": [lambda v: v.astype(np.int64)],
    "tables.frequencies": [lambda v: v.astype(np.float64), lambda v: v[:-1]],
    "tables.sizes": [lambda v: v.astype(np.int64), lambda v: v[:0]],
    "offsets": [lambda v: v * np.nan, lambda v: v[:5]],
    "dead_zone": [lambda v: v * np.nan],
}
CASES = [(name, number) for name, ways in WRONG.items() for number in range(len(ways))]


@pytest.mark.parametrize(
    "name, number", [(name, i) for name, ways in WRONG.items() for i in range(len(ways))]
)
def test_a_codec_is_checked_whole(codec: FeatureCodec, tmp_path: Path, name: str, number: int) -> None:
    """What a file holds of the wrong type or shape, or what is no number, never comes to coding."""
    tensors = codec.tensors()
    spoiled = {**tensors, name: np.asarray(WRONG[name][number](tensors[name]))}
    file = write_tensors(tmp_path / "codec-integer.safetensors", spoiled)
    with pytest.raises(ValueError, match=r"codec|matrix|layer|table|gains|lead"):
        FeatureCodec.load(file)


def test_a_codec_that_could_overflow_is_refused(codec: FeatureCodec) -> None:
    tensors = codec.tensors()
    with pytest.raises(ValueError, match="int32"):
        FeatureCodec.from_tensors({**tensors, "gains": tensors["gains"] * 1e6})
    wide = np.full_like(tensors["trunk.0.0.multiplier"], 2**31 - 1)
    bias = np.full_like(tensors["trunk.0.0.bias"], 2**31 - 1)
    with pytest.raises(ValueError, match=r"2\*\*53"):
        FeatureCodec.from_tensors({**tensors, "trunk.0.0.multiplier": wide, "trunk.0.0.bias": bias})
