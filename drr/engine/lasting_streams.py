"""Standard output and errors that a full disk does not break.

A log's disk may get full. Python's logging puts up with that; prints and progress bars do not, and an engine that shows
how far the loading of its weights has come would not start.
"""

import contextlib
import errno
import sys
from collections.abc import Callable
from typing import Any

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def outlast_full_disks(on_loss: Callable[[], None] = lambda: None) -> None:
    """From now on what this process says is dropped where there is no room for it; `on_loss` is called each time."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # there is none, or one that is not to be changed
            # The stream stays the same object: loggers hold it already, and vLLM has put a prefix before its lines.
            stream.write = _lasting(stream.write, on_loss)  # type: ignore[method-assign]
            stream.flush = _lasting(stream.flush, on_loss)  # type: ignore[method-assign]


def _lasting(call: Callable[..., Any], on_loss: Callable[[], None]) -> Callable[..., Any]:
    def lasting(*text: str) -> Any:
        try:
            return call(*text)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            on_loss()
            return sum(map(len, text))

    return lasting
