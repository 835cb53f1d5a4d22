"""Submits our jobs through `run_over`, one after the other; a script for an environment that has Dataflow's client.

Arguments: a JSON list of {"title": ..., "job": "embed" | "fill" | "score", "arguments": Beam options}, and a folder.
With --dry_run=True among the arguments, the pipeline is written there as TITLE.pb, and Beam's options as TITLE.json.
Prints a JSON line for each: what `run_over` returned, or the class and text of what it raised.
"""

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam

from encoders.registry import load_dual, load_scorer
from pipelines.embed.plan import PlannedShard
from pipelines.embed.plan import Recipe as EmbedRecipe
from pipelines.embed.transforms import EmbedShards
from pipelines.index.partial import PlannedPartial
from pipelines.index.trained import Trained
from pipelines.index.transforms import FillPartials
from pipelines.jobs import resolve_job
from pipelines.rerank.plan import ShardTask
from pipelines.rerank.shard import Recipe as ScoreRecipe
from pipelines.rerank.transforms import ScoreShards
from pipelines.runners.run import pipeline_over, run_over
from schemas.jobs import Job
from schemas.layout import EmbeddingPaths, ScorePaths


def work(kind: str, job: Job) -> tuple[list[Any], beam.PTransform]:
    """Elements and transform of a stage, as its job makes them."""
    config, part = job.dataset, f"{job.layout.root}/part"
    if kind == "embed":
        recipe = EmbedRecipe(config.name, config.key_scope, config.captions, config.embed, "e" * 64)
        paths = EmbeddingPaths(f"{part}.parquet", f"{part}.rejects.parquet", f"{part}.json")
        load = functools.partial(load_dual, job.encoder, layout=job.layout)
        return [PlannedShard("gs://bucket/shard.tar", "d" * 64, 1 << 20, paths)], EmbedShards(recipe, load)
    if kind == "fill":
        trained = Trained("t" * 64, f"{job.layout.root}/trained.json")
        planned = PlannedPartial(f"{part}.json", "embedding", trained.digest, f"{part}.lists", f"{part}.partial.json")
        return [planned], FillPartials(trained)
    task = ShardTask("gs://bucket/shard.tar", config.name, "c" * 64, ScorePaths.of(f"{part}.json"), 4, "s" * 64)
    load = functools.partial(load_scorer, job.scorer, layout=job.layout)
    return [task], ScoreShards(ScoreRecipe("f" * 64, config.rerank, config.embed), load)


def submit(title: str, kind: str, arguments: list[str], folder: Path) -> object:
    """What `run_over` returns."""
    job = resolve_job("demo", arguments, root="gs://bucket/root", runner="dataflow", encoder="builtin:demo-loopitr")
    elements, transform = work(kind, job)
    runner = type(job.runner)(title, job.runner.beam_args)
    if "--dry_run=True" in arguments:
        described = pipeline_over(elements, transform, counted=kind, runner=runner).run().job
        (folder / f"{title}.pb").write_bytes(described.proto_pipeline.SerializeToString())
        (folder / f"{title}.json").write_text(json.dumps(described.options.get_all_options(), default=str))
    return run_over(elements, transform, counted=kind, runner=runner)


if __name__ == "__main__":
    print(json.dumps({"pid": os.getpid()}), flush=True)  # noqa: T201
    for one in json.loads(sys.argv[1]):
        try:
            said: dict[str, Any] = {"counters": submit(one["title"], one["job"], one["arguments"], Path(sys.argv[2]))}
        except BaseException as error:  # noqa: BLE001 - told to the test
            said = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(said | {"title": one["title"]}), flush=True)  # noqa: T201
