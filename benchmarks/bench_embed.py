"""How fast the embed job is, against what the same model can do at all on this machine, in one run.

    python -m benchmarks.bench_embed                       ViT-B/32, some minutes
    python -m benchmarks.bench_embed --size small --images 64 --shards 2      seconds, to see that it works

limit       raw forward of the vision tower on ready, normalised tensors; as many lanes of one torch thread, same dtype
end to end  the real Beam job: tar -> decode -> forward -> Parquet and manifest (model loaded before)
ratio       end to end / the mean of the limits measured just before and just after it
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import SIZES, jpegs, make_clip, save, surroundings, write_shard
from encoders.base import DualEncoder
from encoders.hf.clip import ClipEncoder
from encoders.registry import load_dual
from pipelines.embed.lanes import Lanes, cores
from pipelines.embed.plan import plan
from pipelines.embed.queries import BATCH_TEXTS, encode_texts
from pipelines.embed.transforms import embed_shards
from schemas.configs import DatasetConfig, Embed, EncoderConfig
from schemas.jobs import Job
from schemas.layout import Layout


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def forward_rate(encoder: ClipEncoder, *, images: int, batch_size: int, lanes: int) -> float:
    """Images a second of the bare vision tower."""
    edge = encoder.pixels.height
    batches = max(lanes, images // batch_size // lanes * lanes)  # as many for each lane
    ready = torch.randn(batch_size, 3, edge, edge, dtype=encoder.dtype, device=encoder.device)

    @torch.inference_mode()
    def forward(_: int) -> None:
        encoder.model.get_image_features(ready).pooler_output.float().cpu()

    with Lanes(lanes) as workers:
        list(workers.map(forward, range(lanes)))  # first calls choose kernels
        taken = seconds(lambda: list(workers.map(forward, range(batches))))
    return batches * batch_size / taken


def job_rate(job: Job, pattern: str, *, images: int, lanes: int) -> float:
    """Images a second of the embed job, Beam's start and Parquet included; the caller holds the model already."""
    todo = plan(job, [pattern])
    load = functools.partial(load_dual, job.encoder, layout=job.layout)
    counters: dict[str, int] = {}

    def run() -> None:
        counters.update(embed_shards(todo.pending, todo.recipe, load=load, runner=job.runner, lanes=lanes))

    taken = seconds(run)
    if counters.get("embedded") != images:
        raise RuntimeError(f"expected {images} images embedded, got {counters}")
    return images / taken


def text_rates(dual: DualEncoder, clip: ClipEncoder, folder: Path, *, texts: int, lanes: int) -> dict[str, float]:
    """Texts a second, padded to the batch (as queries are) and to the model's 77 tokens."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    queries = [f"picture {number}"[: 8 + number % 8] for number in range(texts)]  # 10 to 17 tokens with both ends
    batches = [queries[start : start + BATCH_TEXTS] for start in range(0, texts, BATCH_TEXTS)]

    @torch.inference_mode()
    def padded(batch: list[str]) -> None:
        tokens = tokenizer(batch, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        clip.model.get_text_features(**tokens.to(clip.device)).pooler_output.float().cpu()

    encode_texts(dual, queries[:BATCH_TEXTS], lanes=lanes)
    to_batch = texts / seconds(lambda: encode_texts(dual, queries, lanes=lanes))
    with Lanes(lanes) as workers:
        to_77 = texts / seconds(lambda: list(workers.map(padded, batches)))
    return {"padded_to_batch": to_batch, "padded_to_77": to_77}


def measure(arguments: argparse.Namespace, folder: Path, dtype: Literal["bfloat16", "float32"]) -> dict[str, Any]:
    """All rates in one dtype."""
    images, lanes = arguments.images, arguments.lanes
    layout = Layout(str(folder / f"root-{dtype}"), "bench")
    config = DatasetConfig(name="bench", encoder="bench", embed=Embed(batch_size=arguments.batch_size))
    job = Job(config, EncoderConfig(path=str(folder / "model"), dtype=dtype), None, layout)
    dual = load_dual(job.encoder, layout=layout)
    clip: Any = dual  # its bare towers are measured too

    def limit() -> float:
        return forward_rate(clip, images=images, batch_size=arguments.batch_size, lanes=lanes)

    before = limit()
    whole = job_rate(job, str(folder / "bench-*.tar"), images=images, lanes=lanes)
    after = limit()
    mean = (before + after) / 2
    return {
        "limit_images_per_s": [before, after],
        "end_to_end_images_per_s": whole,
        "ratio": whole / mean,
        "texts_per_s": text_rates(dual, clip, folder / "model", texts=arguments.texts, lanes=lanes),
    }


def main() -> None:
    """Measures, prints a table, and writes JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ViT-B/32")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=Embed().batch_size)
    parser.add_argument("--lanes", type=int, default=cores())
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
    parser.add_argument("--json", type=Path, help="write the result here, e.g. benchmarks/results/embed.json")
    arguments = parser.parse_args()
    if arguments.images % arguments.shards:
        parser.error("--images must be a multiple of --shards")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(folder / "model", arguments.size)
        pictures, each = jpegs(), arguments.images // arguments.shards
        for shard in range(arguments.shards):
            write_shard(folder / f"bench-{shard:03d}.tar", pictures, images=each, first=shard * each)
        rates = {dtype: measure(arguments, folder, dtype) for dtype in arguments.dtypes}

    table = Table(
        title=f"{arguments.size}, {arguments.images} JPEGs 640x480, {arguments.lanes} lanes of 1 torch thread"
    )
    for heading in ("dtype", "limit images/s", "end to end", "ratio", "texts/s", "texts/s padded to 77"):
        table.add_column(heading, justify="right")
    for dtype, found in rates.items():
        first, last = found["limit_images_per_s"]
        texts = found["texts_per_s"]
        table.add_row(
            dtype,
            f"{first:.1f}, {last:.1f}",
            f"{found['end_to_end_images_per_s']:.1f}",
            f"{found['ratio']:.2f}",
            f"{texts['padded_to_batch']:.0f}",
            f"{texts['padded_to_77']:.0f}",
        )
    Console().print(table)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "dtypes")}
    save({"settings": settings, "surroundings": surroundings(), "rates": rates}, arguments.json)


if __name__ == "__main__":
    main()
