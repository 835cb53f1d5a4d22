"""The Beam runner jobs use when none is named: Beam's own in-process engine, pinned.

Beam's default, `DirectRunner`, first tries to download another engine (Prism), so that a machine with Internet
silently runs something else than one without. This one is always the same, and hands the options to its workers
in every mode, which `FnApiRunner` by itself does not.
"""

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import Pipeline
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle


class LocalRunner(fn_runner.FnApiRunner):
    """Runs a pipeline in this process, one stage after the other, and returns when it is done."""

    def run_pipeline(self, pipeline: Pipeline, options: PipelineOptions) -> fn_runner.RunnerResult:
        """Runs to the end; the result is final."""
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        self._provision_info = fn_runner.ExtendedProvisionInfo(info)
        return super().run_pipeline(pipeline, options)
