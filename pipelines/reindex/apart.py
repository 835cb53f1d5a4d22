"""Runs a stage in a process of its own: torch and faiss never meet in one, and its memory is given back at the end."""

import ctypes
import logging
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from pipelines import logs
from schemas.errors import FastslowError

logger = logging.getLogger(__name__)

ResultType = TypeVar("ResultType")

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def run_apart(function: Callable[..., ResultType], *arguments: Any) -> ResultType:
    """Calls a function of an importable module in a fresh process and waits.

    Args:
      function: a stage leaves its results as manifests on disk; what it returns is small.
      arguments: picklable, as what it returns.

    Returns:
      What the function returned.

    Raises:
      FastslowError: as raised by the function, or when its process was killed.
      KeyboardInterrupt: after the process has been stopped.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of Arrow and OpenMP
    receiver, sender = context.Pipe(duplex=False)
    level = logging.getLogger(logs.OURS[0]).level
    process = context.Process(target=_call, args=(sender, level, function, arguments))
    process.start()
    sender.close()
    try:
        result, failure = receiver.recv()
    except EOFError:
        result = failure = None
    except KeyboardInterrupt:
        process.terminate()
        process.join()
        raise
    process.join()
    if failure is not None:
        raise failure
    if process.exitcode:
        how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
        hint = "; out of memory is the usual reason" if process.exitcode == -signal.SIGKILL else ""
        raise FastslowError(
            f"the process of this stage died ({how}){hint}. Run the same command again to go on from here"
        )
    return cast(ResultType, result)


def _call(sender: Connection, level: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # a killed run leaves no worker behind
    signal.signal(signal.SIGTERM, _interrupt)
    logs.configure(level or logging.INFO)
    answer: tuple[Any, BaseException | None]
    try:
        answer = function(*arguments), None
    except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the parent
        answer = None, _portable(error)
    sender.send(answer)
    sender.close()


def _interrupt(*_: object) -> None:
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
