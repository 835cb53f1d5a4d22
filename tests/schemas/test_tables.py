"""Ids, layouts, ledgers, rejects, TREC exports: small promises, each broken once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, FastslowError, InputError, LedgerError
from schemas.ids import item_id, refuse_collisions
from schemas.layout import Layout, shard_stem
from schemas.manifests import Counts, QueriesManifest
from schemas.rankings import trec_qrels, trec_run
from schemas.rejects import Reject, to_table


@given(st.text(), st.text())
def test_an_id_fits_faiss_and_parquet(dataset, key):
    assert 0 <= item_id(dataset, key) < 2**63


def test_a_key_used_twice_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"the same key: 'a' in s1 and 'a' in s2.*key_scope: shard"):
        refuse_collisions([(1, "a", "s1"), (1, "a", "s2")])


def test_a_collision_of_two_keys_is_refused():
    with pytest.raises(InputError, match="two keys with the same id 1: 'a' in s1 and 'b' in s2"):
        refuse_collisions([(1, "a", "s1"), (2, "c", "s1"), (1, "b", "s2")])


@pytest.mark.parametrize("name", ["", "..", "a/b", "../up", ".hidden", "a" * 101, "a\nb"])
def test_no_dataset_name_leaves_the_root(name):
    with pytest.raises(ConfigError, match="dataset name"):
        Layout("build", name)


@given(st.text(min_size=1))
def test_no_shard_name_leaves_its_folder(name):
    assert "/" not in shard_stem(f"s3://bucket/{name}")
    assert shard_stem(name)


def test_no_two_things_share_a_path():
    layout = Layout("build/", "demo")
    digest = "0" * 64
    part = layout.embedding_part(digest, "a/x.tar", digest)
    folders = [layout.index(digest), layout.candidates(digest), layout.scores(digest), layout.rankings(digest)]
    single = [layout.generation(1), layout.report(1), layout.current(), layout.shards(), layout.cache("x", digest)]
    paths = [*vars(part).values(), *layout.queries(digest), *folders, *single]
    assert len(set(paths)) == len(paths)
    assert all(path.startswith("build/") for path in paths)


def test_a_ledger_that_does_not_add_up_is_refused():
    with pytest.raises(LedgerError, match="lost or doubled"):
        Counts(seen=3, embedded=1, rejected=1, images=1)


def test_ledgers_add_up_field_by_field():
    total = Counts(seen=3, embedded=2, rejected=1, images=2) + Counts(seen=1, embedded=1, rejected=0, videos=1)
    assert total == Counts(seen=4, embedded=3, rejected=1, images=2, videos=1)


def test_a_manifest_from_a_newer_version_is_refused(tmp_path):
    (tmp_path / "m.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="schema version 99.*upgrade fastslow"):
        QueriesManifest.read(str(tmp_path / "m.json"))


def test_a_manifest_of_another_kind_is_refused(tmp_path):
    (tmp_path / "m.json").write_text('{"schema_version": 1, "kind": "index"}')
    with pytest.raises(InputError, match="not a QueriesManifest"):
        QueriesManifest.read(str(tmp_path / "m.json"))


def test_a_reject_carries_no_megabytes_and_no_broken_text():
    reject = Reject("k\ud800", "s", 0, 0, 0, "decode", "E", "x" * 10_000)
    assert to_table([reject]).to_pylist()[0]["message"] == "x" * 500
    assert to_table([reject]).to_pylist()[0]["key"] == "k?"


def test_trec_scores_fall_strictly_and_keys_are_one_word():
    run = trec_run([("q", "a b", 1), ("q", "c", 2)], depth=2, tag="t")
    assert run == "q Q0 a%20b 1 2 t\nq Q0 c 2 1 t\n"
    assert trec_qrels([("q", "a b")]) == "q 0 a%20b 1\n"


def test_exit_codes_are_the_documented_ones():
    codes = {kind.__name__: kind.exit_code for kind in FastslowError.__subclasses__()}
    assert codes == {
        "ConfigError": 2, "InputError": 1, "SampleError": 1, "ModelError": 1, "LedgerError": 1, "StaleError": 1,
        "IndexBuildError": 1, "GateError": 3, "BusyError": 75,
    }  # fmt: skip
