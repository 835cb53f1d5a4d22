"""Every exception of the project and the exit code a command ends with when it escapes.

Messages say what was expected, what came, which item, and the way out.
Exit codes: 0 done or nothing to do, 1 error, 2 usage, 3 a gate refused, 75 try later (locked), 130 interrupted.
"""


class FastslowError(Exception):
    """Base of all our errors; its message is printed without a traceback."""

    exit_code = 1


class ConfigError(FastslowError, ValueError):
    """A config, option or query the caller wrote cannot be used."""

    exit_code = 2


class InputError(FastslowError):
    """An input is missing, unreadable or not what it claims to be."""


class SampleError(FastslowError):
    """One sample is refused; becomes a reject row and never stops its neighbours."""


class ModelError(FastslowError):
    """A model cannot be loaded, or does not do what its config promises."""


class LedgerError(FastslowError):
    """Counts do not add up: something was lost or doubled."""


class StaleError(FastslowError):
    """Two artefacts that must belong together do not (fingerprint or digest differs)."""


class IndexBuildError(FastslowError):
    """An index cannot be built or does not reach its target; says which limit binds."""


class GateError(FastslowError):
    """A generation is built but refused by a gate; the old one is still served."""

    exit_code = 3


class BusyError(FastslowError):
    """Somebody else holds the lock or published first; try again later."""

    exit_code = 75


def exit_code(error: BaseException | None) -> int:
    """What a command ends with when this error escapes; 0 where none did.

    >>> exit_code(BusyError("locked")), exit_code(KeyboardInterrupt()), exit_code(OSError()), exit_code(None)
    (75, 130, 1, 0)
    """
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, FastslowError) else 1
