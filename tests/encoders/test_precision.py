"""Which dtype a model runs in, and that asking again costs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from encoders import precision
from encoders.precision import (
    GOLDEN_TEXTS,
    choose_dtype,
    compare,
    fingerprint_of,
    golden_pixels,
    pinned,
    resolved_dtype,
)
from encoders.registry import adapters, build, load_dual, load_scorer
from schemas.configs import EncoderConfig
from schemas.layout import Layout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bf16_machine(monkeypatch):
    """bfloat16 is worth a try here (without the units torch does it too, slowly)."""
    monkeypatch.setattr(precision, "capability", lambda: "avx512_bf16")
    monkeypatch.setattr(precision, "_usable", lambda: True)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(str(tmp_path / "root"), "demo")


def auto(folder) -> EncoderConfig:
    return EncoderConfig(path=str(folder))


def spoil(folder) -> None:
    """Adds to a projection what float32 cancels (its inputs have mean zero) and bfloat16 does not."""
    weights = load_file(folder / "model.safetensors")
    norm = "vision_model.post_layernorm"
    weights[f"{norm}.weight"] = torch.ones_like(weights[f"{norm}.weight"])
    weights[f"{norm}.bias"] = torch.zeros_like(weights[f"{norm}.bias"])
    weights["visual_projection.weight"] += 100.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stated_dtype_is_taken_without_looking_at_the_model(dtype):
    assert resolved_dtype(EncoderConfig(path="nowhere", dtype=dtype)) == dtype


def test_a_machine_without_bfloat16_runs_float32_without_looking_at_the_model(monkeypatch):
    monkeypatch.setattr(precision, "capability", lambda: "none")
    assert resolved_dtype(EncoderConfig(path="nowhere")) == "float32"


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "xclip", "blip"])
def test_bfloat16_is_chosen_where_it_agrees(bf16_machine, tiny_model, name):
    choice = choose_dtype(auto(tiny_model(name)))
    assert choice.dtype == "bfloat16"
    assert 0.999 <= choice.agreement < 1


def test_float32_is_chosen_where_vectors_would_turn(bf16_machine, copied):
    folder = copied("clip")
    spoil(folder)
    choice = choose_dtype(auto(folder))
    assert choice.dtype == "float32"
    assert choice.agreement < 0.999


def test_the_agreement_is_the_least_cosine_over_golden_texts_and_pictures(tiny_clip):
    config = auto(tiny_clip)
    (adapter,) = adapters(config)
    exact, rounded = (build(config, adapter, dtype=dtype) for dtype in ("float32", "bfloat16"))
    pixels = torch.from_numpy(golden_pixels(exact.pixels, 1))
    cosines = [
        np.sum(exact.encode_text(GOLDEN_TEXTS)["embedding"] * rounded.encode_text(GOLDEN_TEXTS)["embedding"], axis=1),
        np.sum(exact.encode_visual(pixels)["embedding"] * rounded.encode_visual(pixels)["embedding"], axis=1),
    ]
    assert compare(exact, rounded) == pytest.approx(np.min(cosines), abs=1e-6)
    assert compare(exact, exact) == pytest.approx(1)


def test_the_choice_is_made_once_a_root(bf16_machine, tiny_clip, layout, monkeypatch):
    assert resolved_dtype(auto(tiny_clip), layout) == "bfloat16"
    (memo,) = Path(layout.root, "cache", "dtype").iterdir()
    assert json.loads(memo.read_text())["agreement"] > 0.999
    monkeypatch.setattr(precision, "choose_dtype", lambda _: pytest.fail("chosen again"))
    assert resolved_dtype(auto(tiny_clip), layout) == "bfloat16"
    assert pinned(auto(tiny_clip), layout) == EncoderConfig(path=str(tiny_clip), dtype="bfloat16")


def test_another_kind_of_machine_chooses_for_itself(bf16_machine, tiny_clip, layout, monkeypatch):
    resolved_dtype(auto(tiny_clip), layout)
    monkeypatch.setattr(precision, "capability", lambda: "amx_bf16+avx512_bf16")
    monkeypatch.setattr(precision, "choose_dtype", lambda _: precision.Choice("float32", 0.9))
    assert resolved_dtype(auto(tiny_clip), layout) == "float32"


def test_the_fingerprint_of_a_config_is_that_of_the_loaded_model(bf16_machine, tiny_clip, tiny_blip, layout):
    encoder = load_dual(auto(tiny_clip), layout=layout)
    assert encoder.fingerprint == fingerprint_of(auto(tiny_clip), layout)
    assert encoder.dtype == torch.bfloat16
    assert load_scorer(auto(tiny_blip), layout=layout).fingerprint == fingerprint_of(auto(tiny_blip), layout)
    pinned_config = pinned(auto(tiny_clip), layout)
    assert fingerprint_of(pinned_config) == encoder.fingerprint


def test_asking_again_needs_no_torch(tiny_clip, layout):
    expected = fingerprint_of(auto(tiny_clip), layout)
    program = (
        "import sys\n"
        "from encoders.precision import fingerprint_of\n"
        "from encoders.registry import model_type\n"
        "from schemas.configs import EncoderConfig\n"
        "from schemas.layout import Layout\n"
        "config = EncoderConfig(path=sys.argv[1])\n"
        "print(fingerprint_of(config, Layout(sys.argv[2], 'demo')), model_type(config))\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'apache_beam', 'faiss'} & set(sys.modules)))\n"
    )
    arguments = [sys.executable, "-c", program, str(tiny_clip), layout.root]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{expected} clip", "[]"]


def test_golden_pictures_fill_the_range_and_differ():
    from encoders.base import PixelSpec

    spec = PixelSpec(48, 64, "squash", 0, "bicubic", (0, 0, 0), (1, 1, 1))
    pixels = golden_pixels(spec, 3)
    assert pixels.shape == (8, 3, 48, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels.tobytes() == golden_pixels(spec, 3).tobytes()
    assert (np.diff(pixels.astype(int), axis=0) != 0).mean() > 0.9
    assert (np.diff(pixels.astype(int), axis=1) != 0).mean() > 0.5
