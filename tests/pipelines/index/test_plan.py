"""What names an index, and what is refused from manifests alone."""

import subprocess
import sys

import numpy as np
import pytest

from pipelines.index.plan import pending, plan_index
from schemas.errors import InputError, StaleError


def test_the_name_depends_on_content_and_config_and_not_on_order(world):
    plan = plan_index(world.job, world.parts, world.queries_url)
    assert plan.rows == 600
    assert plan.dim == 16
    assert pending(plan)
    assert plan_index(world.job, world.parts[::-1], world.queries_url) == plan
    for other in ({"seed": 1}, {"recall_target": 0.9}, {"key": "Flat"}, {"build_memory": "1TB"}):
        assert plan_index(world.with_index(**other), world.parts, world.queries_url).digest != plan.digest
    assert plan_index(world.job, world.parts[:2], world.queries_url).digest != plan.digest


def test_mixed_encoders_widths_and_empty_sets_are_refused(world, part_writer, query_writer):
    layout, eye = world.job.layout, np.eye(16, dtype=np.float32)
    with pytest.raises(StaleError, match="embed all shards with one encoder"):
        plan_index(world.job, [*world.parts, part_writer(layout, "x", eye, encoder="f" * 64)], world.queries_url)
    with pytest.raises(InputError, match="width"):
        plan_index(world.job, [*world.parts, part_writer(layout, "w", eye[:8, :8])], world.queries_url)
    with pytest.raises(InputError, match="nothing to index"):
        plan_index(world.job, [], world.queries_url)
    with pytest.raises(InputError, match="nothing to index"):
        plan_index(world.job, [part_writer(layout, "none", eye[:0])], world.queries_url)
    with pytest.raises(InputError, match="empty: its shard holds no sample"):
        plan_index(world.job, [*world.parts, part_writer(layout, "none", eye[:0])], world.queries_url)
    with pytest.raises(InputError, match="given twice"):
        plan_index(world.job, [world.parts[0], *world.parts], world.queries_url)


def test_planning_imports_no_heavy_library():
    code = (
        "import sys, pipelines.index.job, pipelines.index.candidates, pipelines.index.plan, pipelines.index.tune;"
        "print([m for m in ('faiss', 'autofaiss', 'torch', 'apache_beam') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
