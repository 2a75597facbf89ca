"""An argument parser whose complaints are one sentence."""

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

from drr.errors import without_headline

_JSON = re.compile(r"<function loads at \w+>|\bloads\b(?= value)")
"""How argparse calls what reads JSON."""


class OneSentenceParser(argparse.ArgumentParser):
    """An argument parser that says what is wrong without repeating its usage, and what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave with status 2."""
        said = _JSON.sub("JSON", without_headline(message)).strip().replace("\n", " ")
        self.exit(2, f"{self.prog}: {said}{self._meant(message)} ({self.prog} --help lists what there is)\n")

    def _meant(self, message: str) -> str:
        if message.startswith("unrecognized arguments:"):
            known = [text for action in self._actions for text in action.option_strings]
            return did_you_mean(re.findall(r"--?[\w-]+", message.partition(":")[2]), known)
        if choice := re.search(r"invalid choice: '([^']*)'", message):
            return did_you_mean([choice[1]], [str(name) for action in self._actions for name in action.choices or ()])
        return ""


def did_you_mean(typed: Iterable[str], known: Iterable[str]) -> str:
    """A question to be put behind a complaint; empty where nothing known is near to what was typed."""
    names = list(known)
    near = [match for text in typed for match in difflib.get_close_matches(text, names, n=1)]
    return f"; did you mean {' '.join(near)}?" if near else ""
