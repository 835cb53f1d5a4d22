"""Each gate lets pass what is at its limit and refuses what is beyond, with both figures."""

import pytest

from pipelines.reindex import gates
from schemas.configs import DatasetConfig, Publish
from schemas.errors import GateError
from schemas.manifests import Counts, FileEntry, Generation, IndexManifest, SegmentEntry

CONFIG = DatasetConfig(name="d", encoder="e", publish=Publish(max_r1_drop=0.05))
COUNTS = Counts(seen=11, embedded=10, rejected=1, images=10)


FILE = FileEntry(name="f", rows=1, size_bytes=1, sha256="s")


def index(rows: int = 10, recall: float = 0.95) -> IndexManifest:
    return IndexManifest(
        dataset="d", embeddings="e", queries="q", config_digest="c", encoder="x", key="Flat", parameters="", rows=rows,
        dim=4, recall=recall, recall_k=10, recall_target=0.95, faiss_version="1",
        self_recall=1.0, lineage=None, truth=FILE,
        segments=(SegmentEntry(lists=FILE, ids=FILE, vectors=(), parts=("p",), error=None),),
    )  # fmt: skip


def metrics(r1: float, side: str = "reranked") -> dict:
    return {"text_to_image": {"fast": {"R@1": 0.0}} | {side: {"R@1": r1}}}


def served(r1: float) -> Generation:
    return Generation(
        dataset="d", number=4, parent=None, created="", content="c", embeddings=(), embeddings_digest="e", queries="q",
        index="i", candidates=None, rankings=None, config={}, counts=COUNTS, metrics=metrics(r1), seconds={},
    )  # fmt: skip


def check(**changes) -> None:
    gates.check(CONFIG, **{"counts": COUNTS, "index": index(), "metrics": metrics(0.5), "served": None} | changes)


def test_a_good_generation_passes():
    check()
    check(served=served(0.55))
    check(metrics={}, served=served(0.9))  # nothing was judged: nothing to compare


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": Counts(seen=3, embedded=0, rejected=3)}, r"no item was embedded \(3 rejected\)"),
        ({"index": index(rows=9)}, "the index holds 9 items, 10 were embedded"),
        ({"index": index(recall=0.949)}, "recall@10 of the index is 0.949, the target 0.95"),
        (
            {"served": served(0.56)},
            r"R@1 fell from 0.560 \(generation 4\) to 0.500.*the old generation is still served",
        ),
        ({"metrics": metrics(0.4, "fast"), "served": served(0.5)}, "R@1 fell from 0.500"),
    ],
)
def test_each_gate_refuses_by_name_and_figure(changes, message):
    with pytest.raises(GateError, match=message):
        check(**changes)
