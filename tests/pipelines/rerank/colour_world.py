"""A small world that can be searched for real: plain coloured pictures, and a model that tells colours apart.

The fast side sees red and green only, the slow side all three channels, so reranking has something to mend.
"""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from encoders.base import PixelSpec, Vectors
from pipelines.embed import job as embed
from pipelines.embed import queries as queries_stage
from pipelines.embed.plan import EmbedPlan
from pipelines.index.exact import exact_search
from pipelines.index.parts import Parts
from schemas.configs import DatasetConfig, EncoderConfig
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import CandidatesManifest, QueriesManifest
from schemas.parquet import entry, read_table, vectors, write_table
from schemas.rankings import CANDIDATES


class ColourModel:
    """Texts are hex colours ("colour ff8000"); pictures are their mean colour."""

    dims = {"embedding": 4}
    pixels = PixelSpec(8, 8, "squash", 8, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    frames = None

    def __init__(self, folder: Path, *, fingerprint: str, dtype: torch.dtype, device: torch.device) -> None:
        self.fingerprint = fingerprint
        self.device = device
        self.pair_evaluations = 0
        self.pictures = 0
        self.texts_read = 0
        self.batches: list[int] = []

    def encode_text(self, texts) -> Vectors:
        return {"embedding": _circle(np.stack([colour_of(text) for text in texts]))}

    def encode_visual(self, pixels: torch.Tensor) -> Vectors:
        return {"embedding": _circle(self.visual_cache(pixels)[:, 0].numpy())}

    def visual_cache(self, pixels: torch.Tensor) -> torch.Tensor:
        self.pictures += len(pixels)
        return pixels.to(torch.float32).mean(dim=(1, 2, 3))[:, None] / 255

    def text_cache(self, texts) -> dict[str, np.ndarray]:
        self.texts_read += len(texts)
        return {text: colour_of(text) for text in texts}

    def score(self, texts, cache: torch.Tensor, text_cache: dict[str, np.ndarray] | None = None) -> np.ndarray:
        self.pair_evaluations += len(texts)
        self.batches.append(len(texts))
        known = text_cache or self.text_cache(texts)
        wanted = np.stack([known[text] for text in texts])
        return -np.linalg.norm(cache[:, 0].numpy() - wanted, axis=1).astype(np.float32)


class LeveledColourModel(ColourModel):
    """The same with a coarse level beside it, which sees red alone."""

    dims = {"embedding_2": 2, "embedding": 4}

    def encode_text(self, texts) -> Vectors:
        return _with_red(super().encode_text(texts))

    def encode_visual(self, pixels: torch.Tensor) -> Vectors:
        return _with_red(super().encode_visual(pixels))


def _with_red(vectors: Vectors) -> Vectors:
    """Cosine and sine of the angle of red."""
    return {"embedding_2": vectors["embedding"][:, [0, 2]] * np.float32(np.sqrt(2)), **vectors}


def colour_of(text: str) -> np.ndarray:
    """RGB from 0 to 1 of "colour rrggbb", float32 (3,)."""
    return np.frombuffer(bytes.fromhex(text.split()[-1]), np.uint8).astype(np.float32) / 255


def _circle(colours: np.ndarray) -> np.ndarray:
    """Red and green as angles, float32 (B, 4), norm 1; blue is not seen."""
    angles = colours[:, :2] * np.pi / 2
    return (np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(2)).astype(np.float32)


@dataclass
class World:
    """A dataset, embedded, with its queries and candidates."""

    job: Job
    shards: list[str]
    plan: EmbedPlan
    queries: str
    candidates: str

    def with_settings(self, **changes) -> Job:
        """The job with some of `rerank`, `embed` or `queries` changed: section__key=value."""
        sections: dict[str, dict] = {}
        for name, value in changes.items():
            section, key = name.split("__")
            sections.setdefault(section, {})[key] = value
        config = self.job.dataset
        update = {name: getattr(config, name).model_copy(update=new) for name, new in sections.items()}
        return Job(
            config.model_copy(update=update), self.job.encoder, self.job.scorer, self.job.layout, self.job.runner
        )


def write_model(folder: Path) -> EncoderConfig:
    """Files of the model, so that it has a fingerprint like any other."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "test-colour"}))
    save_file({"weight": np.ones(3, np.float32)}, str(folder / "model.safetensors"))
    return EncoderConfig(path=str(folder), dtype="float32")


def picture(colour: str, kind: str = "jpg") -> bytes:
    """A plain picture, or an animated GIF of two frames."""
    out = io.BytesIO()
    image = Image.new("RGB", (16, 16), f"#{colour}")
    if kind == "jpg":
        image.save(out, "JPEG", quality=95)
    else:
        corner = image.copy()
        corner.putpixel((0, 0), (0, 0, 0))  # equal frames would be merged into one
        image.save(out, "GIF", save_all=True, append_images=[corner], duration=200)
    return out.getvalue()


def write_shard(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    """A tar with the members in order, the same bytes every time."""
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def colours(count: int, seed: int = 7) -> list[str]:
    """Distinct hex colours; neighbours share red and green, so that only blue tells them apart."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count // 2):
        red, green, blue = generator.integers(0, 256, 3).tolist()
        found += [f"{red:02x}{green:02x}{blue:02x}", f"{red:02x}{green:02x}{(blue + 128) % 256:02x}"]
    return found


def make_world(root: Path, *, items: int = 24, depth: int = 6, compressed: bool = False, **settings) -> World:
    """Writes shards, embeds them, encodes the captions as queries and finds candidates by exhaustive search."""
    root.mkdir(parents=True, exist_ok=True)
    names = colours(items)
    suffix, mode = (".tar.gz", "w:gz") if compressed else (".tar", "w")
    shards = []
    for number in range(3):
        members = []
        for row in range(number, items, 3):
            kind = "gif" if row >= items - 4 else "jpg"
            members += [
                (f"item{row:03d}.{kind}", picture(names[row], kind)),
                (f"item{row:03d}.txt", f"colour {names[row]}".encode()),
            ]
        path = root / f"colours-{number}{suffix}"
        write_shard(path, members, mode)
        shards.append(str(path))
    config = DatasetConfig.model_validate(
        {
            "name": "colours",
            "shards": shards,
            "encoder": "colour",
            "scorer": "colour",
            "embed": {"frames": 2, "max_reject_fraction": 0.5},
            "queries": {"fit_fraction": 0.5},
            "rerank": {"depth": depth, "batch_items": 3, "batch_pairs": 4},
        }
        | settings
    )
    model = write_model(root / "model")
    job = Job(config, model, model, Layout(str(root / "out"), "colours"))
    plan = embed.run(job, shards, lanes=2)
    queries = queries_stage.run(job, plan, None)
    return World(job, shards, plan, queries, find_candidates(job, plan, queries, depth))


def find_candidates(job: Job, plan: EmbedPlan, queries: str, depth: int) -> str:
    """Candidates as the index stage leaves them, but by exhaustive search."""
    manifest = QueriesManifest.read(queries)
    table = read_table(f"{queries.rsplit('/', 1)[0]}/{manifest.data.name}")
    scores, ids = exact_search(Parts(tuple(plan.manifests)), vectors(table.column("embedding")), depth)
    folder = job.layout.candidates(f"{depth:04d}".ljust(64, "0"))
    with write_table(f"{folder}/candidates.parquet", CANDIDATES) as writer:
        writer.write(
            {
                "query_id": [name for name in table.column("query_id").to_pylist() for _ in range(ids.shape[1])],
                "item_id": ids.reshape(-1),
                "rank": np.tile(np.arange(1, ids.shape[1] + 1, dtype=np.int32), len(ids)),
                "fast_score": scores.reshape(-1),
            }
        )
    CandidatesManifest(
        dataset="colours",
        index="exhaustive",
        queries=manifest.data.sha256,
        depth=depth,
        data=entry(f"{folder}/candidates.parquet"),
    ).commit(f"{folder}/manifest.json")
    return f"{folder}/manifest.json"


def tree(folder: str) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }
