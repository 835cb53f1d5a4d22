"""Intervals, the range of another seed, the CCA floor and expert grades, each against something that is known."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from pipelines.claims.bootstrap import compare_by_subject
from pipelines.claims.expert import read_grades, spearman
from pipelines.claims.findings import Finding, expected, kept, not_tested
from pipelines.claims.floor import cca, fit_floor, read_words
from pipelines.claims.prediction import next_seed
from pipelines.claims.ranks import ranks, recall
from pipelines.claims.records import record_of
from pipelines.evaluate.metrics import compare
from schemas.errors import InputError


def test_the_range_of_another_seed_is_student_s():
    low, high = next_seed([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 * (4 / 3) ** 0.5, 2 + 4.302653 * (4 / 3) ** 0.5), abs=1e-5)
    assert next_seed([5.0]) is None
    assert next_seed([]) is None


def test_the_range_holds_another_seed_nineteen_times_in_twenty():
    draws = np.random.default_rng(1).normal(3, 2, (4000, 4))
    bounds = [next_seed(row[:3]) for row in draws]
    inside = np.mean([low <= value <= high for (low, high), value in zip(bounds, draws[:, 3], strict=True)])
    assert inside == pytest.approx(0.95, abs=0.012)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6), st.floats(0, 5))
def test_the_range_is_never_narrower_than_the_seeds_and_a_step(values, step):
    low, high = next_seed(values, step=step)
    assert low <= min(values) - step
    assert high >= max(values) + step


def test_a_finding_s_range_goes_one_query_beyond():
    assert expected(Finding("RR2", "holds", "", (0.0, 0.0, 0.0), (1, 2, 3), facts={"queries": 200})) == (-0.5, 0.5)
    assert expected(not_tested("RR2", "why")) is None


def test_a_finding_stays_unless_all_its_seeds_are_run_again():
    before = Finding("FS1", "holds", seeds=(1, 2))
    assert not kept(None, before, (1, 2, 3))
    assert not kept(not_tested("FS1", "why"), before, (1, 2, 3))
    assert not kept(before, Finding("FS1", "does not hold", seeds=(1, 2, 3)), (1, 2, 3))
    assert kept(before, Finding("FS1", "holds", seeds=(1, 7)), (1, 2, 3))
    assert kept(before, not_tested("FS1", "why"), (1, 2, 3))


def test_queries_of_different_pictures_give_the_usual_interval():
    rng = np.random.default_rng(0)
    ours, theirs = (100.0 * (rng.random(300) < share) for share in (0.6, 0.5))
    one, other = compare_by_subject(ours, theirs, np.arange(300)), compare(ours, theirs)
    assert one.value == pytest.approx(other.value)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1.0)


def test_the_same_queries_asked_again_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    ours, theirs = (100.0 * (rng.random(300) < share) for share in (0.6, 0.5))
    once = compare_by_subject(ours, theirs, np.arange(300))
    thrice = compare_by_subject(np.tile(ours, 3), np.tile(theirs, 3), np.tile(np.arange(300), 3))
    assert thrice == pytest.approx(once)
    assert compare(np.tile(ours, 3), np.tile(theirs, 3)).low > once.low + 2  # as if there were thrice as many
    with pytest.raises(ValueError, match="got none"):
        compare_by_subject(np.empty(0), np.empty(0), np.empty(0, int))


def test_cca_is_the_generalised_eigenproblem():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 2))
    left = np.concatenate([hidden + rng.normal(size=(400, 2)), rng.normal(size=(400, 3))], 1) @ rng.normal(size=(5, 5))
    right = np.concatenate([hidden + rng.normal(size=(400, 2)), rng.normal(size=(400, 2))], 1) + 7
    found = cca(left, right, dimensions=4, ridge=0.0)
    x, y = left - left.mean(0), right - right.mean(0)
    cxx, cyy, cxy = x.T @ x / 400, y.T @ y / 400, x.T @ y / 400
    squares = scipy.linalg.eigh(cxy @ np.linalg.solve(cyy, cxy.T), cxx, eigvals_only=True)[::-1]
    assert found.correlations == pytest.approx(np.sqrt(np.maximum(squares[:4], 0)), abs=1e-6)
    a, b = x @ found.left, y @ found.right
    assert a.T @ a / 400 == pytest.approx(np.eye(4), abs=1e-8)
    assert b.T @ b / 400 == pytest.approx(np.eye(4), abs=1e-8)
    assert a.T @ b / 400 == pytest.approx(np.diag(found.correlations), abs=1e-8)
    assert (cca(left, right, dimensions=2, ridge=1.0).correlations < found.correlations[:2]).all()
    with pytest.raises(ValueError, match="as many rows"):
        cca(left[:3], right, dimensions=2, ridge=0.0)
    with pytest.raises(ValueError, match="expected 5 columns"):
        cca(left, right, dimensions=5, ridge=0.0)


def test_tf_idf_is_what_its_formula_says():
    texts = ["a dog runs", "a dog, a cat!", "a bird"]
    words = read_words([*texts, "dog cat", "cat"])
    assert set(words.place) == {"a", "dog", "cat"}  # "bird" and "runs" are in one text each
    idf = np.log(6 / 4) + 1
    assert words.idf == pytest.approx([idf] * 3)
    row = words.tf_idf(["A dog a"]).toarray()[0]
    assert row[words.place["a"]] == pytest.approx(2 / 5**0.5)
    assert row[words.place["dog"]] == pytest.approx(1 / 5**0.5)
    assert not words.vectors(["unheard of"]).any()
    with pytest.raises(ValueError, match="3 words or more"):
        read_words(["one two", "one two"])


def test_the_floor_finds_pictures_whose_features_say_what_captions_say():
    rng = np.random.default_rng(0)
    names = [f"thing{i}" for i in range(12)]
    chosen = np.array([rng.permutation(12)[:3] for _ in range(300)])
    features = np.zeros((300, 12))
    np.put_along_axis(features, chosen, 1.0, 1)
    features = features @ rng.normal(size=(12, 20)) + 0.05 * rng.normal(size=(300, 20))
    captions = [[" ".join(names[i] for i in some), " and ".join(names[i] for i in some[::-1])] for some in chosen]
    floor = fit_floor(features[:250], captions[:250])
    scores = floor.texts([some[0] for some in captions[250:]]) @ floor.pictures(features[250:]).T
    assert recall(ranks(scores, np.arange(50)), 5) > 80  # by chance 10
    assert recall(ranks(scores, np.roll(np.arange(50), 1)), 5) < 40


def test_spearman_is_the_correlation_of_ranks():
    rng = np.random.default_rng(0)
    scores, grades = rng.normal(size=60), rng.integers(1, 5, 60).astype(float)
    assert spearman(scores, grades) == pytest.approx(np.corrcoef(rankdata(scores), rankdata(grades))[0, 1])
    assert spearman(np.exp(scores), scores) == pytest.approx(1.0)


def test_expert_grades_find_their_photo_and_caption(tmp_path):
    path = tmp_path / "ExpertAnnotations.txt"
    path.write_text(
        "a.jpg\tb.jpg#1\t1\t2\t3\nb.jpg\tb.jpg#0\t4\t4\t4\nz.jpg\tb.jpg#0\t1\t1\t1\na.jpg\tb.jpg#2\t1\t1\t1\n"
    )
    found = read_grades(path, ["a", "b"], [["a0", "a1"], ["b0", "b1"]])
    assert found.items.tolist() == [0, 1]
    assert found.captions == ("b1", "b0")
    assert found.grades.tolist() == [2.0, 4.0]
    assert found.left_out == 2  # a photo and a caption that are not there
    with pytest.raises(InputError, match="found none among 4 lines"):
        read_grades(path, ["q"], [["q0"]])
    path.write_text("a.jpg\tb.jpg#1\t1\t2\t5\n")
    with pytest.raises(
        InputError, match=r"line 1: expected image, image#number and three grades of 1 to 4, got 'a\.jpg"
    ):
        read_grades(path, ["a", "b"], [["a0"], ["b0"]])
    with pytest.raises(InputError, match="found no file"):
        read_grades(tmp_path / "gone.txt", ["a"], [["a0"]])


def test_a_record_keeps_settings_and_cuts_paths():
    kept_of = record_of(
        {
            "name": "x",
            "command": "python /somewhere/fastslow",
            "seed": 3,
            "config": {
                "initial": "/some/where/fs-slow-1",
                "model": {"vision": "/models/mobilenet/", "text": "sentence-transformers/all-MiniLM-L6-v2"},
                "data": {"train": ["../data/flickr8k-train-*.tar"], "feature_folder": "/x/features"},
            },
        }
    )
    assert kept_of == {
        "seed": 3,
        "config": {
            "initial": "fs-slow-1",
            "model": {"vision": "mobilenet", "text": "sentence-transformers/all-MiniLM-L6-v2"},
            "data": {"train": ["flickr8k-train-*.tar"], "feature_folder": "features"},
        },
    }
    assert (
        record_of({"config": {"initial": "builtin:demo-vldeformer"}})["config"]["initial"] == "builtin:demo-vldeformer"
    )
