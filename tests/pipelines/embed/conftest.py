"""Shards of generated pictures and a small real encoder: a seeded random projection of the decoded pixels."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.base import PixelSpec
from pipelines.embed.plan import PlannedShard, Recipe
from schemas.configs import Captions, Embed
from schemas.digests import digest_file
from schemas.layout import Layout

EDGE = 16
SPEC = PixelSpec(EDGE, EDGE, "squash", EDGE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class ProjectionEncoder:
    """Pixels times a fixed random matrix, frames averaged; NaN for pictures that are wholly black."""

    fingerprint = "projection-of-pixels-0123456789abcdef"
    frames = None
    pixels = SPEC
    device = torch.device("cpu")

    def __init__(self, dims: dict[str, int] | None = None) -> None:
        self.dims = dims or {"embedding": 12}
        generator = torch.Generator().manual_seed(7)
        self.weights = {n: torch.randn(EDGE * EDGE * 3, d, generator=generator) for n, d in self.dims.items()}
        self.batches: list[tuple[int, ...]] = []

    def encode_visual(self, pixels: torch.Tensor) -> dict[str, np.ndarray]:
        self.batches.append(tuple(pixels.shape))
        flat = pixels.float().div(255).flatten(2).mean(1)
        vectors = {name: flat @ matrix for name, matrix in self.weights.items()}
        return {n: (v / v.norm(dim=1, keepdim=True)).numpy() for n, v in vectors.items()}

    def encode_text(self, texts) -> dict[str, np.ndarray]:
        """The texts' letters, projected; depends on the padding if batches were padded wrongly."""
        self.batches.append((len(texts), max(len(text) for text in texts)))
        counts = torch.zeros(len(texts), EDGE * EDGE * 3)
        for row, text in enumerate(texts):
            for letter in text.encode():
                counts[row, letter] += 1
        vectors = {name: counts @ matrix for name, matrix in self.weights.items()}
        return {n: (v / v.norm(dim=1, keepdim=True)).numpy() for n, v in vectors.items()}


def jpeg(seed: int, *, width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def black() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "PNG")
    return stream.getvalue()


def moving_gif(seed: int, frames: int = 5) -> bytes:
    generator = np.random.default_rng(seed)
    pictures = [Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(frames)]
    stream = io.BytesIO()
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    return stream.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def picture_members(count: int, *, start: int = 0) -> list[tuple[str, bytes]]:
    """`count` captioned pictures, keys p000000, p000001, ..."""
    numbers = range(start, start + count)
    pairs = [((f"p{n:06d}.jpg", jpeg(n)), (f"p{n:06d}.txt", f"picture {n}".encode())) for n in numbers]
    return [member for pair in pairs for member in pair]


def planned(path: Path, layout: Layout, recipe: Recipe) -> PlannedShard:
    digest = digest_file(str(path))
    paths = layout.embedding_part(recipe.digest, str(path), digest)
    return PlannedShard(str(path), digest, path.stat().st_size, paths)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(str(tmp_path / "root"), "tests")


@pytest.fixture
def recipe() -> Recipe:
    return Recipe("tests", "dataset", Captions(), Embed(batch_size=8), ProjectionEncoder.fingerprint)


@pytest.fixture
def kit():
    """The functions above, for tests (a conftest cannot be imported by name)."""
    import types

    return types.SimpleNamespace(
        ProjectionEncoder=ProjectionEncoder,
        black=black,
        jpeg=jpeg,
        moving_gif=moving_gif,
        picture_members=picture_members,
        planned=planned,
        write_tar=write_tar,
    )
