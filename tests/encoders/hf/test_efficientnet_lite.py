"""EfficientNet-Lite's weights as Hugging Face's model: the maps of a forward written out here, of the same weights."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from encoders.backbones import load_backbone
from encoders.hf.efficientnet_lite import STRIDES, config_of, model_of
from schemas.errors import ModelError

STAGES = ((1, 8, 3, 1), (6, 16, 3, 2), (6, 24, 5, 1), (6, 32, 3, 1), (6, 40, 5, 2), (6, 48, 5, 1), (6, 56, 3, 1))
"""Expansion, channels, kernel and blocks."""


def named(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random weights under the names that are published."""
    found: dict[str, torch.Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = torch.rand(width, generator=generator) + 0.5
        found[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1
        found[f"{name}.running_mean"] = torch.randn(width, generator=generator) * 0.1
        found[f"{name}.running_var"] = torch.rand(width, generator=generator) + 0.5
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    width, number = 32, 0
    for expand, out, kernel, repeats in STAGES:
        for _ in range(repeats):
            block, inner = f"_blocks.{number}", width * expand
            if expand > 1:
                conv(f"{block}._expand_conv", inner, width, 1, 1)
                norm(f"{block}._bn0", inner)
            conv(f"{block}._depthwise_conv", inner, 1, kernel, kernel)
            norm(f"{block}._bn1", inner)
            conv(f"{block}._project_conv", out, inner, 1, 1)
            norm(f"{block}._bn2", out)
            width, number = out, number + 1
    conv("_conv_head", 1280, width, 1, 1)
    norm("_bn1", 1280)
    found |= {"_fc.weight": torch.zeros(10, 1280), "_fc.bias": torch.zeros(10)}
    return found


def maps_of(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """The forward as TensorFlow pads it: as evenly as it goes, what is over at the right and at the bottom."""

    def conv(seen: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        over = max((-(-seen.shape[2] // stride) - 1) * stride + weight.shape[2] - seen.shape[2], 0)
        padded = functional.pad(seen, (over // 2, over - over // 2) * 2)
        return functional.conv2d(padded, weight, stride=stride, groups=groups)

    def norm(seen: torch.Tensor, name: str) -> torch.Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(seen, *(weights[f"{name}.{kind}"] for kind in kinds), eps=1e-3)

    seen = functional.relu6(norm(conv(pixels, "_conv_stem", 2), "_bn0"))
    number = 0
    for (expand, _, _, repeats), stride in zip(STAGES, STRIDES, strict=True):
        for turn in range(repeats):
            block, inner = f"_blocks.{number}", seen
            if expand > 1:
                inner = functional.relu6(norm(conv(inner, f"{block}._expand_conv"), f"{block}._bn0"))
            first = stride if turn == 0 else 1
            inner = conv(inner, f"{block}._depthwise_conv", first, groups=inner.shape[1])
            inner = norm(
                conv(functional.relu6(norm(inner, f"{block}._bn1")), f"{block}._project_conv"), f"{block}._bn2"
            )
            seen, number = inner + seen if turn else inner, number + 1
    return functional.relu6(norm(conv(seen, "_conv_head"), "_bn1"))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return named(torch.Generator().manual_seed(3))


@torch.inference_mode()
def test_maps_are_those_of_the_weights(weights):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    expected = maps_of(weights, pixels)
    assert expected.shape == (2, 1280, 2, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(
        model_of(weights, 64)(pixel_values=pixels).last_hidden_state, expected, rtol=1e-4, atol=1e-4
    )


def test_the_command_writes_what_trainings_load(weights, tmp_path):
    torch.save(weights, tmp_path / "lite.pth")
    command = [sys.executable, "-m", "encoders.hf.efficientnet_lite", "lite.pth", "out", "--size", "64"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lite.pth", "out"]
    settings, loaded = load_backbone(str(tmp_path / "out"), part="vision")
    assert settings["model_type"] == "efficientnet"
    torch.testing.assert_close(loaded["encoder.top_conv.weight"], weights["_conv_head.weight"])
    assert AutoModel.from_pretrained(tmp_path / "out").config.image_size == 64
    pictures = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert pictures["size"] == {"height": 64, "width": 64}


def test_what_is_no_efficientnet_lite_is_named(weights):
    with pytest.raises(ModelError, match="a multiple of 32 pixels, got 260"):
        config_of(weights, 260)
    for name, message in (("_conv_head.weight", "none named '_conv_head.weight'"), ("_bn1.bias", "missing")):
        without = {key: value for key, value in weights.items() if key != name}
        with pytest.raises(ModelError, match=message):
            model_of(without, 64)
    with pytest.raises(ModelError, match="unknown"):
        model_of(weights | {"_se.weight": torch.zeros(1)}, 64)
    few = {key: value for key, value in weights.items() if not key.startswith("_blocks.8.")}
    with pytest.raises(ModelError, match="expected 7 stages between 32 and 1280 channels, got 6 between 32 and 1280"):
        config_of(few, 64)


@pytest.mark.parametrize(
    ("weights_file", "out", "message"),
    [
        ("gone.pth", "new", "gone.pth: expected weights written by torch.save; "),
        ("broken.pth", "new", "broken.pth: expected weights written by torch.save; "),
        ("broken.pth", "there", "there: is there already; remove it, or give another folder"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(weights_file, out, message, tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    (tmp_path / "there").mkdir()
    command = [sys.executable, "-m", "encoders.hf.efficientnet_lite", weights_file, out]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"efficientnet_lite: {message}")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
