"""What benchmarks run on, made from a seed: JPEG shards and CLIP models with random weights of real sizes."""

import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DISTINCT = 64
"""Different pictures; shards repeat them under new keys."""

SIZES: dict[str, dict[str, Any]] = {
    # ViT-B/32 as openai/clip-vit-base-patch32; "small" is so fast that the pipeline's own cost shows
    "ViT-B/32": {"vision": {}, "text": {}, "edge": 224, "projection": 512},
    "small": {
        "vision": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3},
        "text": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3},
        "edge": 112,
        "projection": 192,
    },
}


def make_clip(folder: Path, size: str) -> Path:
    """Saves a CLIPModel of a size in `SIZES` with random weights, its tokenizer (one token a letter) and processor."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = sorted(ByteLevel.alphabet())
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: n for n, name in enumerate(names)}, merges=[], model_max_length=77)
    made, edge = SIZES[size], SIZES[size]["edge"]
    ends = {"bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1, "pad_token_id": len(names) - 1}
    config = CLIPConfig(
        text_config=made["text"] | {"projection_dim": made["projection"]} | ends,
        vision_config=made["vision"] | {"projection_dim": made["projection"], "image_size": edge},
        projection_dim=made["projection"],
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}).save_pretrained(
        folder
    )
    return folder


def jpegs(count: int = DISTINCT, *, width: int = 640, height: int = 480) -> list[bytes]:
    """Pictures with large shapes and fine grain: about 75 kB each at 640x480, as photographs are."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = generator.normal(0, 7, (height, width, 1)).astype(np.float32)
        stream = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
        made.append(stream.getvalue())
    return made


def write_shard(path: Path, pictures: list[bytes], *, images: int, first: int = 0) -> Path:
    """A tar of captioned pictures with keys of their own."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in _members(pictures, images, first):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _members(pictures: list[bytes], images: int, first: int) -> Iterator[tuple[str, bytes]]:
    for number in range(first, first + images):
        yield f"{number:09d}.jpg", pictures[number % len(pictures)]
        yield f"{number:09d}.txt", f"picture number {number}".encode()


def surroundings() -> dict[str, Any]:
    """Commit, machine and versions a measurement belongs to."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    from encoders.precision import capability
    from pipelines.embed.lanes import cores

    names = ("torch", "transformers", "apache-beam", "pyarrow", "simplejpeg", "pillow")
    return {
        "commit": commit,
        "machine": platform.machine(),
        "cores": cores(),
        "bfloat16": capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def save(result: dict[str, Any], path: Path | None) -> None:
    """Writes a result as JSON where asked."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
