"""Training and filling: same bytes, same ids, clear refusals."""

import faiss
import numpy as np
import pytest

from pipelines.index import build, training
from pipelines.index.parts import Parts
from pipelines.index.plan import plan_index
from pipelines.index.proposal import Proposal, propose
from schemas.configs import Index
from schemas.errors import IndexBuildError

KEYS = ["Flat", "IVF16,Flat", "HNSW8", "IVF8,PQ4x4", "PCA8,IVF8,SQ8", "IVF16_HNSW8,Flat", "SQ8"]


def built(world, key, **settings):
    job = world.with_index(key=key, **settings)
    plan = plan_index(job, world.parts, world.queries_url)
    config = job.dataset.index
    proposal = propose(plan.rows, plan.dim, config)
    train_rows = build.training_rows(proposal, plan.rows, plan.dim, config)
    return build.build(plan, proposal, train_rows=train_rows, seed=config.seed)


@pytest.mark.parametrize("key", KEYS)
def test_every_kind_has_the_same_bytes_with_one_and_two_threads(world, key):
    with training.threads(1):
        one = faiss.serialize_index(built(world, key)).tobytes()
    with training.threads(2):
        assert faiss.serialize_index(built(world, key)).tobytes() == one


@pytest.mark.parametrize("key", KEYS)
def test_every_kind_holds_every_item_under_its_id(world, key):
    index = built(world, key)
    assert index.ntotal == 600
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    _, found = index.search(world.vectors, 600) if "IVF" not in key else exhaustively(index, world.vectors)
    assert set(found.reshape(-1).tolist()) - {-1} == set(world.ids.tolist())


def exhaustively(index, vectors):
    faiss.ParameterSpace().set_index_parameter(index, "nprobe", 16)
    return index.search(vectors, 600)


def test_the_seed_changes_the_clusters(world):
    one, two = (faiss.serialize_index(built(world, "IVF16,Flat", seed=s)).tobytes() for s in (0, 1))
    assert one != two


def test_training_rows_follow_autofaiss_unless_set():
    def rows_for(key: str, rows: int = 10**6, **settings) -> int:
        return build.training_rows(Proposal(key, "test", 10**6), rows, 64, Index(**settings))

    assert rows_for("IVF512,Flat") == 51_200
    assert rows_for("IVF16,PQ8") == build.CODEBOOK_ROWS
    assert rows_for("IVF16,PQ8", 700) == 700
    assert rows_for("IVF16,PQ8", train_rows=123) == 123
    assert rows_for("PQ8") == build.MAX_ROWS_WITHOUT_LISTS
    assert rows_for("IVF512,Flat", build_memory="425M") == (25 * 2**20 - 512 * 64 * 4) // 640  # less the centroids
    assert rows_for("IVF512,Flat", build_memory="402M") == 39 * 512  # FAISS warns of fewer; the build is refused then


def test_more_lists_than_rows_is_a_clear_error(world):
    with pytest.raises(IndexBuildError, match="FAISS cannot train 'IVF1000,Flat' on 600 vectors"):
        built(world, "IVF1000,Flat")


def test_a_build_beyond_its_memory_is_refused_with_what_it_needs(world):
    plan = plan_index(world.job, world.parts, world.queries_url)
    config = Index(build_memory="10KB")
    proposal = propose(plan.rows, plan.dim, Index(key="Flat"))
    needed = build.build_bytes(proposal, plan.dim, train_rows=600, part_rows=600)
    with pytest.raises(IndexBuildError, match=r"needs about .*index.build_memory is 10KB"):
        build.refuse(needed, proposal, plan.rows, plan.dim, config)
    build.refuse(needed, proposal, plan.rows, plan.dim, Index())


def test_filling_does_not_depend_on_what_the_trainer_leaves_of_threads(world):
    before = faiss.omp_get_max_threads()
    index = faiss.IndexIDMap2(faiss.IndexHNSWFlat(16, 8, faiss.METRIC_INNER_PRODUCT))
    build.fill(index, Parts(tuple(world.parts)))
    assert faiss.omp_get_max_threads() == before
    assert np.sort(faiss.vector_to_array(index.id_map)).tolist() == np.sort(world.ids).tolist()
