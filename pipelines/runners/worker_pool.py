"""Python workers for Flink, one whenever a task manager asks: `python -m pipelines.runners.worker_pool --port=50000`.

Beam's own pool stops a worker by a name that is unique within one task manager only. Two that share a pool, as on one
machine, give their workers the same names, and whoever is done first stops the other's in the middle of its work; the
job then waits for ever. Workers of this pool end by themselves, as their task manager hangs up.
"""

import argparse
import os
import sys
import threading
from pathlib import Path

import grpc
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer


class WorkerPool(BeamFnExternalWorkerPoolServicer):
    """Workers as threads of this process, or each in a process of its own; see `start` of the base class."""

    def StopWorker(  # noqa: N802 - the name is the protocol's
        self, _request: beam_fn_api_pb2.StopWorkerRequest, _context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Stops nothing: which of several workers of that name is meant cannot be known."""
        return beam_fn_api_pb2.StopWorkerResponse()


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description="A pool of Python workers, to be run beside a Flink task manager.")
    parser.add_argument("--port", type=int, default=50000)
    given = parser.parse_args()
    # Beam starts plain `python`
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    address, _server = WorkerPool.start(use_process=True, port=given.port)
    sys.stderr.write(f"workers at {address}\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
