"""Reading, checking and sampling the parts."""

import numpy as np
import pytest

from pipelines.index.parts import Parts, check, sample
from schemas.errors import InputError, StaleError


def test_parts_can_be_walked_twice_and_hold_every_row(world):
    parts = Parts(tuple(world.parts))
    for _ in range(2):
        assert np.concatenate([b.ids for b in parts]).tolist() == world.ids.tolist()
        np.testing.assert_array_equal(np.concatenate([b.vectors for b in parts]), world.vectors)


def test_the_sample_is_fair_seeded_and_without_repeats(world):
    where = {number: row for row, number in enumerate(world.ids.tolist())}
    seen = np.zeros(len(world.ids))
    for seed in range(150):
        drawn = sample(world.parts, 60, seed=seed)
        assert len(set(drawn.ids.tolist())) == 60
        rows = [where[number] for number in drawn.ids.tolist()]
        np.testing.assert_array_equal(drawn.vectors, world.vectors[rows])
        seen[rows] += 1
    thirds = [seen[:100].mean(), seen[100:300].mean(), seen[300:].mean()]  # the parts; 15 expected of each row
    assert all(14.0 < mean < 16.0 for mean in thirds)
    assert seen.min() > 0  # the last rows have their turn as well as the first
    np.testing.assert_array_equal(sample(world.parts, 60, seed=3).ids, sample(world.parts, 60, seed=3).ids)


@pytest.mark.parametrize("count", [1, 7, 60, 399])
def test_the_draw_is_numpys_in_the_order_of_the_parts(world, count, part_writer):
    empty = part_writer(world.job.layout, "empty", np.empty((0, 16), np.float32))
    one = part_writer(world.job.layout, "one", np.eye(16, dtype=np.float32)[:1])
    urls = [empty, world.parts[0], one, *world.parts[1:], empty]
    blocks = list(Parts(tuple(urls)))
    ids, found = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("ids", "vectors"))
    rows = np.sort(np.random.default_rng(11).choice(len(ids), size=count, replace=False))
    drawn = sample(urls, count, seed=11)
    assert drawn.ids.tobytes() == ids[rows].tobytes()
    assert drawn.vectors.tobytes() == found[rows].tobytes()


def test_a_sample_of_more_than_all_is_all(world):
    assert sample(world.parts, 10_000, seed=0).ids.tolist() == world.ids.tolist()


def test_nan_wrong_norm_and_duplicates_are_refused_by_name(world, part_writer):
    layout = world.job.layout
    bad = np.eye(16, dtype=np.float32)[:3].copy()
    bad[1] = np.nan
    with pytest.raises(InputError, match="nan-1: column embedding: expected a vector of norm 1, got norm nan"):
        check([part_writer(layout, "nan", bad)], dim=16)
    with pytest.raises(InputError, match=r"is used 2 times: s0-0 in s0; s0-0 in again"):
        check([*world.parts, part_writer(layout, "again", bad[:1], keys=["s0-0"])], dim=16)
    check(world.parts, dim=16)


def test_a_file_of_another_width_or_encoder_than_its_manifest_is_refused(world, part_writer, tmp_path):
    with pytest.raises(InputError, match="vectors are 16 wide, not 8"):
        check(world.parts, dim=8)
    url = part_writer(world.job.layout, "other", np.eye(16, dtype=np.float32), encoder="f" * 64)
    text = (path := __import__("pathlib").Path(url)).read_text().replace("f" * 64, "e" * 64)
    path.write_text(text)
    with pytest.raises(StaleError, match="made by encoder ffffffffffffffff, its manifest says eeeeeeee"):
        check([url], dim=16)
