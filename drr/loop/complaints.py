"""What goes wrong in every request is said once, with its cause: a scorer that fails does so thousands of times."""

import logging
import time
from collections.abc import Callable
from traceback import extract_tb

logger = logging.getLogger("drr")

_SILENCE = 3600.0
"""Seconds for which the same complaint is not made again."""
_MOST = 256
"""Different complaints that are remembered."""

Cause = tuple[str, str, str, int]
"""Whose failure, the error's type, and where it was raised: its file and line."""


class Complaints:
    """Says of failures what has not been said lately. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[Cause, tuple[float, int]] = {}
        """When each was said last, and how often it has been kept back since."""

    def complain(self, who: str, error: BaseException) -> None:
        """Log that `who` failed to score a boundary, with where it went wrong, unless the same was said lately."""
        cause, now = _cause(who, error), self._clock()
        said = self._said.get(cause)
        if said is not None and now - said[0] < _SILENCE:
            self._said[cause] = said[0], said[1] + 1
            return
        kept_back = 0 if said is None else said[1]
        if said is None and len(self._said) >= _MOST:
            del self._said[min(self._said, key=lambda known: self._said[known][0])]
        self._said[cause] = now, 0
        since = f" ({kept_back} more like it since that was last said)" if kept_back else ""
        told = (
            "%s failed to score a boundary: %r%s; thinking goes on. The same is counted and not said again for an hour."
        )
        logger.warning(told, who, error, since, exc_info=error)


def _cause(who: str, error: BaseException) -> Cause:
    frames = extract_tb(error.__traceback__)
    place = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
    return who, type(error).__name__, *place


complain = Complaints().complain
"""Those of this process."""
