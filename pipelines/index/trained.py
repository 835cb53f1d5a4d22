"""A trained, empty index: made once of a fair sample, stored by digest, used by every worker that fills a part."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.index.plan import RECIPE, IndexPlan
from pipelines.index.proposal import Proposal
from schemas.commits import exists, staging
from schemas.digests import digest_value
from schemas.layout import Layout
from schemas.manifests import FileEntry, TrainedManifest

log = logging.getLogger(__name__)

FILE = "trained.faiss"


class Trained(NamedTuple):
    """Where a trained index is.

    Attributes:
      digest: of what it was trained on, how, and as what; names its folder.
      manifest_url: exists when it is there.
    """

    digest: str
    manifest_url: str


def plan_trained(layout: Layout, plan: IndexPlan, proposal: Proposal, *, train_rows: int, seed: int) -> Trained:
    """Names the trained index of a plan; nothing is read."""
    digest = digest_value(
        {
            "embeddings": plan.embeddings_digest,
            "level": plan.levels[0],
            "dim": plan.dim,
            "key": proposal.key,
            "train_rows": train_rows,
            "seed": seed,
            "recipe": RECIPE,
        }
    )
    return named(layout, digest)


def named(layout: Layout, digest: str) -> Trained:
    """The trained index of a digest."""
    return Trained(digest, f"{layout.trained(digest)}/manifest.json")


def ensure_trained(
    layout: Layout, plan: IndexPlan, proposal: Proposal, *, train_rows: int, seed: int
) -> tuple[Trained, Any]:
    """Trains unless it is there; returns where it is and the empty index.

    Raises:
      IndexBuildError: FAISS cannot train this kind on these rows.
    """
    from pipelines.index import build
    from pipelines.index.parts import sample
    from pipelines.index.proposal import empty_index
    from pipelines.index.training import train

    where = plan_trained(layout, plan, proposal, train_rows=train_rows, seed=seed)
    if exists(where.manifest_url):
        log.info("trained %s is there", where.manifest_url)
        return where, open_trained(where)
    index = empty_index(proposal.key, plan.dim)
    if not index.is_trained:
        drawn = sample(plan.part_urls, train_rows, seed=seed, level=plan.levels[0])
        train(index, drawn.vectors, key=proposal.key, seed=seed)
    with staging() as folder:
        build.write(index, folder / FILE)
        entry = FileEntry.of(folder / FILE, FILE, 0)
        manifest = TrainedManifest(dataset=layout.dataset, key=proposal.key, dim=plan.dim, rows=train_rows, data=entry)
        url = f"{where.manifest_url.rpartition('/')[0]}/{FILE}"
        manifest.commit_unit(where.manifest_url, {folder / FILE: url}, subject=f"trained index {where.digest[:16]}")
    return where, index


def open_trained(where: Trained, cache: Path | None = None) -> Any:
    """The empty index; a remote file is fetched once and checked.

    Raises:
      InputError: it is missing, or not what its manifest says.
    """
    import faiss

    from pipelines.index.search import local_file

    manifest = TrainedManifest.read(where.manifest_url)
    path = local_file(f"{where.manifest_url.rpartition('/')[0]}/{manifest.data.name}", manifest.data, cache)
    return faiss.read_index(str(path))
