"""Runs a stage in a process of its own: torch and faiss never meet in one, and its memory is given back at the end."""

import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Collection, Mapping
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar, cast

from pipelines import logs
from schemas.errors import FastslowError

logger = logging.getLogger(__name__)

ResultType = TypeVar("ResultType")

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class Apart(Generic[ResultType]):
    """A function at work in a fresh process.

    Args:
      function: of an importable module; a stage leaves its results as manifests on disk, what it returns is small.
      arguments: picklable, as what it returns.
      environment: variables set in the process before anything of ours is loaded.
      cores: it may run on; None: as its parent.
    """

    def __init__(
        self,
        function: Callable[..., ResultType],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        cores: Collection[int] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of Arrow and OpenMP
        self.receiver, sender = context.Pipe(duplex=False)
        level = logging.getLogger(logs.OURS[0]).level
        place = (dict(environment or {}), cores)
        call = pickle.dumps((function, arguments))  # unpickled, and so imported, once the process is in its place
        self._process = context.Process(target=_call, args=(sender, level, place, call))
        self._process.start()
        sender.close()

    def result(self) -> ResultType:
        """Waits for what the function returns.

        Raises:
          FastslowError: as raised by the function, or when its process was killed.
          KeyboardInterrupt: after the process has been stopped.
        """
        try:
            result, failure = self.receiver.recv()
        except EOFError:
            result = failure = None
        except KeyboardInterrupt:
            self.stop()
            raise
        self._process.join()
        if failure is not None:
            raise failure
        code = self._process.exitcode
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            hint = "; out of memory is the usual reason" if code == -signal.SIGKILL else ""
            raise FastslowError(
                f"the process of this stage died ({how}){hint}. Run the same command again to go on from here"
            )
        return cast(ResultType, result)

    def stop(self) -> None:
        """Interrupts the function, and waits until its process has ended."""
        self._process.terminate()
        self._process.join()


def run_apart(function: Callable[..., ResultType], *arguments: Any) -> ResultType:
    """Calls a function in a fresh process and waits; arguments, result and errors as of `Apart`."""
    return Apart(function, *arguments).result()


def _call(sender: Connection, level: int, place: tuple[dict[str, str], Collection[int] | None], call: bytes) -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # a killed run leaves no worker behind
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    environment, cores = place
    os.environ.update(environment)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    logs.configure(level or logging.INFO)
    answer: tuple[Any, BaseException | None]
    try:
        function, arguments = pickle.loads(call)
        answer = function(*arguments), None
    except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the parent
        answer = None, _portable(error)
    sender.send(answer)
    sender.close()


_interrupted = False


def _interrupt_once(*_: object) -> None:
    """Ctrl-C comes from the terminal, then again from the parent: tidying up is not interrupted by that."""
    global _interrupted  # noqa: PLW0603
    if not _interrupted:
        _interrupted = True
        raise KeyboardInterrupt


def _portable(error: BaseException) -> BaseException:
    """The error as it can be sent: ours as they are, others by their text."""
    ours = _ours(error)
    if ours is not None:
        return type(ours)(*ours.args)
    if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
        return KeyboardInterrupt()
    logger.debug("%s", "".join(traceback.format_exception(error)))
    return FastslowError(f"{type(error).__name__}: {error}")


def _ours(error: BaseException | None) -> FastslowError | None:
    """Our error in a chain of causes: Beam wraps what a worker raises."""
    while error is not None:
        if isinstance(error, FastslowError):
            return error
        error = error.__cause__ or error.__context__
    return None
