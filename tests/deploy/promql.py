"""What a PromQL expression asks for: its metrics, with their label matchers, and the labels that it groups by."""

import re
from dataclasses import dataclass

_STRING = r'"(?:[^"\\]|\\.)*"'
_MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?<![\w:$.])([a-zA-Z_:][\w:]*)(\s*\{[^{}]*\})?(?!\s*\(|[\w:])")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "inf", "nan"})


@dataclass(frozen=True)
class Selector:
    """A metric, and its matchers: label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    @property
    def values(self) -> list[tuple[str, str]]:
        """Labels and the values that they are compared with, one by one, but for patterns that are no list."""
        found = []
        for label, operator, value in self.matchers:
            alternatives = value.split("|") if "~" in operator else [value]
            found += [(label, each) for each in alternatives if re.fullmatch(r"[\w.:-]*", each)]
        return found


def selectors(expression: str) -> list[Selector]:
    """The metrics of an expression. ValueError where a name stands for none."""
    bare = _GROUPING.sub(" ", re.sub(r"\[[^\]]*\]", " ", expression))
    found = []
    for name, braces in _SELECTOR.findall(bare):
        if name in _WORDS:
            continue
        matchers = _MATCHER.findall(braces)
        if braces.strip("{} \t\n") and _MATCHER.sub("", braces).strip("{}, \t\n"):
            raise ValueError(f"not understood: {braces}")
        found.append(Selector(name, tuple((label, operator, value[1:-1]) for label, operator, value in matchers)))
    return found


def grouped_by(expression: str) -> set[str]:
    """The labels that the expression names outside of matchers."""
    return {
        label.strip() for _, labels in _GROUPING.findall(expression) for label in labels.split(",") if label.strip()
    }
