"""docs/scale.md says what the benchmarks' numbers come to, and nothing else."""

import warnings
from pathlib import Path

import pytest

from benchmarks import plan_scale

with warnings.catch_warnings():
    # SWIG's modules warn while they load; with warnings as errors that crashes the interpreter.
    warnings.simplefilter("ignore")
    import autofaiss  # noqa: F401
    import faiss  # noqa: F401

REPO = Path(__file__).resolve().parent.parent


def test_the_plan_of_a_billion_items_is_what_the_benchmarks_give():
    page = (REPO / "docs/scale.md").read_text()
    assert plan_scale.filled(page, plan_scale.tables(plan_scale.Given())) == page


def test_the_limits_the_page_explains_are_those_hit_first():
    plan = plan_scale.Plan(plan_scale.Given(), plan_scale.Costs())
    stages = dict.fromkeys(limit.of.partition(":")[0] for limit in plan.limits)
    assert list(stages)[:3] == ["merge", "evaluate", "a pipeline names its shards"]
    assert plan.limits[-1].items > plan.given.items > plan.limits[2].items


def test_a_smaller_plan_costs_less_and_says_where_it_stops():
    costs = plan_scale.Costs()
    large, small = (plan_scale.Plan(plan_scale.Given(items=n, queries=n // 100), costs) for n in (10**9, 10**7))
    for one, other in zip(small.stages, large.stages, strict=True):
        assert one.core_hours <= other.core_hours
    hit = {limit.of: limit.items for limit in large.limits}
    half = plan_scale.Plan(plan_scale.Given(items=5 * 10**8, queries=5 * 10**6), costs)
    for limit in half.limits:  # where a limit is does not depend on the size it is asked at
        assert limit.items == pytest.approx(hit[limit.of], rel=0.05)


def test_a_rate_of_a_gpu_is_taken_as_given_and_never_made_up():
    plain, told = (plan_scale.tables(plan_scale.Given(gpu_images_per_s=rate))["gpu"] for rate in (None, 1000.0))
    assert "277,778 / R" in plain
    assert "277.8 (rate as given)" in told
