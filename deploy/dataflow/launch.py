"""What a Flex Template's launcher runs: describes the job that embeds a dataset's new and changed shards, and ends.

A template holds one Beam job, and a run of `fastslow reindex` has up to three with work between them; so this is the
one that takes hours. Whoever runs `fastslow reindex` afterwards finds the shards embedded, and goes on from there.
"""

import argparse
import functools
import logging
import sys
from collections.abc import Sequence

from encoders.precision import pinned
from encoders.registry import load_dual
from pipelines import logs
from pipelines.doctor import runner
from pipelines.embed.plan import plan
from pipelines.embed.transforms import embed_shards
from pipelines.jobs import resolve_job
from pipelines.prepare import job as prepare
from pipelines.reindex import publish
from schemas.errors import ConfigError, FastslowError
from schemas.jobs import Job


def earlier(job: Job) -> list[str]:
    """Manifests of the parts that are served now, whose vectors are taken over where pictures are the same."""
    found = publish.served(job.layout)
    return [f"{job.layout.root}/{part}" for part in found.embeddings] if found is not None else []


def refuse(job: Job) -> None:
    """Passes silently where the options can work.

    Raises:
      ConfigError: they cannot; says why.
    """
    found = runner.look(job.runner, root=job.layout.root, shards=job.dataset.shards, models=job.models)
    errors = [f"{one.found}; the way out: {one.remedy}" for one in found if one.state == "error"]
    if errors:
        raise ConfigError("; ".join(errors))


def main(arguments: Sequence[str]) -> None:
    """Describes the job; without a --template_location among the arguments it is submitted, and waited for.

    Args:
      arguments: the parameters of metadata.json as `--name=value`, and Beam's, which the launcher adds.

    Raises:
      FastslowError: an option cannot work, or a shard cannot be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--preset", default="dataflow")
    parser.add_argument("--shards")
    parser.add_argument("--encoder")
    ours, beam_args = parser.parse_known_args(arguments)
    shards = [ours.shards] if ours.shards else None
    job = resolve_job(
        ours.dataset, beam_args, root=ours.root, runner=ours.preset, shards=shards, encoder=ours.encoder, scorer="none"
    )
    refuse(job)
    todo = plan(job, prepare.run(job).shards, earlier(job))
    logging.getLogger("pipelines").info("%d of %d shards are to be embedded", len(todo.pending), len(todo.shards))
    load = functools.partial(load_dual, pinned(job.encoder, job.layout), layout=job.layout)
    embed_shards(todo.pending, todo.recipe, load=load, runner=job.runner)


if __name__ == "__main__":
    logs.configure(logging.INFO)
    try:
        main(sys.argv[1:])
    except FastslowError as error:
        sys.exit(f"fastslow: {error}")
