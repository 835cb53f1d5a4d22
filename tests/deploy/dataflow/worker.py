"""A Dataflow worker's part, on this machine: a staged pipeline, run with what was staged beside it and nothing else.

Arguments: the pipeline, and the folder that our package was installed in.
"""

import sys
from pathlib import Path

import apache_beam  # noqa: F401 - registers what a pipeline is made of
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

import pipelines

if __name__ == "__main__":
    assert Path(pipelines.__file__).is_relative_to(sys.argv[2]), pipelines.__file__
    pipeline = beam_runner_api_pb2.Pipeline.FromString(Path(sys.argv[1]).read_bytes())
    for environment in pipeline.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""  # here, instead of in a container
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
