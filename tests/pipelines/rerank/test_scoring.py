"""Groups and scores without files: every pair against a direct call of the scorer."""

import numpy as np
import pytest
import torch

from encoders.limits import BrokenImage
from pipelines.rerank.pictures import Item, PictureGone
from pipelines.rerank.scoring import GroupScorer, Wanted, compose
from schemas.configs import Embed, Rerank
from schemas.errors import ModelError, SampleError


@pytest.fixture
def model(colours):
    return colours.ColourModel(None, fingerprint="f", dtype=torch.float32, device=torch.device("cpu"))


def wanted_of(names: list[str], each: list[int], kinds: list[str] | None = None) -> Wanted:
    """Items with `each` pairs; texts are the names of items that follow."""
    kinds = kinds or ["image"] * len(names)
    items = [Item(n, name, n, 0, 0, "", kind) for n, (name, kind) in enumerate(zip(names, kinds, strict=True))]
    texts = [
        f"{'x' * (shift % 3)} {names[(n + shift) % len(names)]}"
        for n, count in enumerate(each)
        for shift in range(count)
    ]
    return Wanted(items, texts, np.concatenate([[0], np.cumsum(each)]))


def score_all(model, data, wanted, **sizes) -> tuple[np.ndarray, dict[int, SampleError]]:
    rerank = Rerank(**({"batch_items": 3, "batch_pairs": 4} | sizes))
    work = GroupScorer(model, wanted, rerank=rerank, embed=Embed(frames=2))
    scores = np.full(len(wanted.texts), np.nan, np.float32)
    failed: dict[int, SampleError] = {}
    for group in compose(data, wanted, rerank=rerank, frames=work.frames):
        found = work(group)
        scores[found.pairs] = found.scores
        failed |= found.failed
    return scores, failed


def test_each_pair_has_the_score_of_its_own_text_and_picture(model, colours):
    names = colours.colours(10)
    wanted = wanted_of(names, [3, 1, 2, 5, 1, 1, 4, 2, 3, 1])
    scores, failed = score_all(model, [colours.picture(name) for name in names], wanted)
    owner = np.repeat(np.arange(10), np.diff(wanted.starts))
    oracle = [
        -np.linalg.norm(colours.colour_of(t) - colours.colour_of(names[o]))
        for t, o in zip(wanted.texts, owner, strict=True)
    ]
    assert not failed
    assert scores == pytest.approx(np.array(oracle), abs=0.03)


def test_each_picture_is_encoded_once_however_many_queries_want_it(model, colours):
    names = colours.colours(6)
    score_all(model, [colours.picture(name) for name in names], wanted_of(names, [50, 1, 9, 30, 2, 7]))
    assert model.pictures == 6
    assert model.pair_evaluations == 99


def test_batches_are_full_but_for_the_last_of_a_group(model, colours):
    names = colours.colours(6)
    score_all(model, [colours.picture(name) for name in names], wanted_of(names, [2] * 6), batch_items=2, batch_pairs=8)
    assert model.batches == [8, 4]  # four items make eight pairs; two are left


def test_a_broken_picture_is_named_and_its_neighbours_are_scored_as_before(model, colours):
    names = colours.colours(6)
    data = [colours.picture(name) for name in names]
    whole, _ = score_all(model, data, wanted_of(names, [2] * 6))
    broken = [*data[:2], b"\xff\xd8\xff broken", PictureGone("x"), *data[4:]]
    scores, failed = score_all(model, broken, wanted_of(names, [2] * 6))
    assert set(failed) == {2, 3}
    assert isinstance(failed[2], BrokenImage)
    assert np.isnan(scores).tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert scores[[0, 1, 2, 3, 8, 9, 10, 11]].tolist() == whole[[0, 1, 2, 3, 8, 9, 10, 11]].tolist()


def test_videos_and_images_of_one_shard_are_both_scored(model, colours):
    names = colours.colours(6)
    kinds = ["image", "video"] * 3
    data = [colours.picture(n, "gif" if k == "video" else "jpg") for n, k in zip(names, kinds, strict=True)]
    scores, failed = score_all(model, data, wanted_of(names, [2] * 6, kinds))
    assert not failed
    assert np.isfinite(scores).all()
    assert scores[::2] == pytest.approx(0, abs=0.05)  # the first text of each is its own


def test_content_that_is_not_of_the_modality_named_is_still_scored(model, colours):
    names = colours.colours(4)
    data = [colours.picture(name, "gif" if n == 1 else "jpg") for n, name in enumerate(names)]
    scores, _ = score_all(model, data, wanted_of(names, [1] * 4))
    assert scores == pytest.approx(0, abs=0.05)


def test_a_score_that_is_no_number_stops_the_job(model, colours, monkeypatch):
    monkeypatch.setattr(type(model), "score", lambda self, texts, *seen: np.full(len(texts), np.nan, np.float32))
    names = colours.colours(2)
    with pytest.raises(ModelError, match=f"{names[0]}: expected a finite score"):
        score_all(model, [colours.picture(name) for name in names], wanted_of(names, [1, 1]))
