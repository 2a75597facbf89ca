"""What a command says when it fails: one sentence for whatever can be foreseen, a log file for the rest.

Nothing is imported to recognise an error: one of a library is known by the names of its class and module.
"""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from drr.errors import InputError, first_line, without_passwords

TRACEBACK_OPTION, TRACEBACK_VARIABLE = "--traceback", "DRR_TRACEBACK"
"""Either of them shows the traceback of every error."""

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit statuses: it could not be done, what was asked for cannot be done, and Ctrl-C."""

_SYSTEM_ERRORS = {
    errno.ENOENT: "there is no such file or folder",
    errno.EACCES: "may not be read or written (permission denied)",
    errno.EPERM: "may not be changed (operation not permitted)",
    errno.EROFS: "cannot be written: the file system is read-only",
    errno.EISDIR: "is a folder, not a file",
    errno.ENOTDIR: "cannot be reached: a part of the path is a file, not a folder",
    errno.EEXIST: "is there already",
    errno.ENOSPC: "cannot be written: the disk is full",
    errno.EDQUOT: "cannot be written: the disk quota is used up",
    errno.EFBIG: "cannot be written: the file would be too large",
    errno.ENAMETOOLONG: "is too long a name",
    errno.EMFILE: "cannot be opened: too many files are open (ulimit -n)",
    errno.ENOMEM: "memory is used up",
    errno.ECONNREFUSED: "nobody listens there (connection refused)",
    errno.EADDRINUSE: "the address is in use",
}

_NETWORK = ("httpx", "httpx2", "httpcore", "aiohttp", "openai", "requests", "urllib3", "websockets")
_OUT_OF_MEMORY = ("OutOfMemoryError", "OutOfMemoryException")


def in_one_sentence(error: BaseException) -> str | None:
    """What a user is told about a foreseeable error; None for one that nobody foresaw."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ in _OUT_OF_MEMORY:
        return f"memory is used up: {first_line(error)}" if str(error) else "memory is used up"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"the package {package} is not installed (pip install 'drr[train]' brings what learning needs)"
    package = type(error).__module__.partition(".")[0]
    if package == "huggingface_hub":
        return f"the hub: {first_line(error)}"
    if package in _NETWORK:
        return _network(error)
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, UnicodeDecodeError):
        return f"a file that should hold UTF-8 text does not: {error.reason} at byte {error.start}"
    return None


def _system(error: OSError) -> str | None:
    """An OSError that says of which file it is, or that names its cause by number."""
    meaning = _SYSTEM_ERRORS.get(error.errno or 0)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if meaning is None and not (names and error.strerror):
        return None
    place = ", ".join(names)
    return ": ".join(part for part in (place, meaning or str(error.strerror)) if part)


def _network(error: BaseException) -> str:
    """What a client's library says, with the address that was asked where that is known."""
    try:
        address = f" at {error.request.url}"  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # httpx raises the latter where there was no request yet
        address = ""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return f"the server{address} cannot be reached: {said or first_line(error)}"
    return f"the server{address} answered {status}: {said or 'is it the address of an API, as in http://host:port/v1?'}"


def exceptions_in(error: BaseException) -> Iterator[BaseException]:
    """The error itself or, for a group of errors (of tasks that ran together), those in it."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from exceptions_in(part)
    else:
        yield error


def guarded(command: str, action: Callable[[], int | None], *, show: bool | None = None) -> int:
    """Run a command; returns its exit status. What goes wrong is one sentence on standard error.

    `command` begins the sentence. `show` has the traceback printed, too; by default the environment decides.
    """
    show = bool(os.environ.get(TRACEBACK_VARIABLE)) if show is None else show
    try:
        status = action() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if error.filename is not None:
            return _told(command, error, show=show)
        _discard_output()  # whoever read the output (head, less) has seen enough
        return 0
    except KeyboardInterrupt:
        _say(command, "interrupted; start it again to go on")
        return INTERRUPTED
    except Exception as error:
        return _told(command, error, show=show)


def _told(command: str, error: Exception, *, show: bool) -> int:
    first = next(exceptions_in(error))
    if show:
        traceback.print_exception(error, file=sys.stderr)
    sentence = in_one_sentence(first)
    if sentence is None:
        what = ": ".join(dict.fromkeys((type(first).__name__, first_line(first))))
        sentence = f"failed in a way that nobody foresaw: {what}{'' if show else _where_traceback(error)}"
    _say(command, sentence)
    return BAD_INPUT if isinstance(first, InputError) else FAILED


def _say(command: str, sentence: str) -> None:
    sys.stderr.write(f"{command}: {without_passwords(sentence)}\n")


def _where_traceback(error: BaseException) -> str:
    """Writes the traceback into a file of its own and says where it is."""
    hint = f"{TRACEBACK_OPTION} or {TRACEBACK_VARIABLE}=1 shows the traceback"
    try:
        number, name = tempfile.mkstemp(prefix="drr-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
    except OSError:
        return f" ({hint})"
    return f" (the traceback is in {Path(name)}; {hint})"


def _discard_output() -> None:
    """Have the interpreter flush what is left into nothing when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
