"""The local runner: Beam's in-process engine and no other, options reach it, our errors come out as they were."""

import logging

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions

from pipelines.runners.local import LocalRunner
from pipelines.runners.options import is_local
from pipelines.runners.run import new_pipeline, remembering_errors, run
from schemas.errors import InputError


def test_without_a_runner_in_the_options_ours_is_used():
    pipeline = new_pipeline(["--direct_runner_bundle_repeat=1"])
    assert isinstance(pipeline.runner, LocalRunner)
    assert pipeline.options.view_as(DirectOptions).direct_runner_bundle_repeat == 1
    assert is_local(["--direct_num_workers=2"])


def test_a_named_runner_is_respected():
    assert not is_local(["--runner", "FlinkRunner"])
    assert not is_local(["--runner=FlinkRunner"])
    assert type(new_pipeline(["--runner=BundleBasedDirectRunner"]).runner).__name__ == "BundleBasedDirectRunner"


def test_a_pipeline_runs_here_and_nothing_is_downloaded(caplog):
    with caplog.at_level(logging.INFO):
        pipeline = new_pipeline([])
        _ = pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle() | beam.Map(_remember)
        result = run(pipeline)
    assert str(result.state) == "DONE"
    assert sorted(REMEMBERED) == [1, 2, 3]
    assert "rism" not in caplog.text


REMEMBERED: list[int] = []


def _remember(number: int) -> int:
    REMEMBERED.append(number)
    return number


def _fail(kind: type[BaseException]):
    def fail(_):
        with remembering_errors():
            raise kind("shard-7: expected a tar")

    return fail


@pytest.mark.parametrize("kind", [InputError, KeyboardInterrupt])
def test_our_errors_and_control_c_come_out_as_they_were(kind):
    pipeline = new_pipeline([])
    _ = pipeline | beam.Create([1]) | beam.Map(_fail(kind))
    with pytest.raises(kind, match="^shard-7: expected a tar$"):
        run(pipeline)


def test_control_c_outside_our_code_is_control_c_too():
    def stop(_):
        raise KeyboardInterrupt

    pipeline = new_pipeline([])
    _ = pipeline | beam.Create([1]) | beam.Map(stop)
    with pytest.raises(KeyboardInterrupt):
        run(pipeline)


def test_other_errors_keep_their_class_and_text():
    pipeline = new_pipeline([])
    _ = pipeline | beam.Create([1]) | beam.Map(_fail(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError, match="expected a tar"):
        run(pipeline)
