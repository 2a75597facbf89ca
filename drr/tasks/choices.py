"""Questions with choices: how they are put into the question, and which of them a gold answer names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from drr.tasks.fields import answer_text, plain_name
from drr.tasks.questions import folded
from drr.tasks.rows import BadRowError, kind_of
from drr.tasks.text_rows import parsed_json

_LABELLED = re.compile(r"\s*\(?\s*([A-Za-z])\s*[).:]\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Choices:
    """The labels and texts of the choices. `numbered` says that the labels are ours, so that a gold answer may be a
    choice's index."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    numbered: bool

    def put_into(self, question: str) -> str:
        """The question followed by a line `(A) text` per choice, unless it holds them already."""
        listed = r"\s*".join(
            rf"\(?{re.escape(label)}\s*[).:]\s*{re.escape(text.strip())}"
            for label, text in zip(self.labels, self.texts, strict=True)
        )
        if re.search(listed, question):
            return question
        lines = (f"({label}) {text}" for label, text in zip(self.labels, self.texts, strict=True))
        return "\n".join([question, *lines])

    def label_of(self, name: str | None, gold: str, first: int) -> str:
        """The label of the choice that `gold` names by its label, its text or its index, counted from `first`.
        BadRowError if it names none of them, or two."""
        bare = gold.strip("().: ").upper()
        if bare in self.labels and not self.numbered:
            return bare
        named = {label for label, text in zip(self.labels, self.texts, strict=True) if folded(text) == folded(gold)}
        named |= {label for label in self.labels if label == bare}
        index = _index(gold)
        if self.numbered and index is not None and 0 <= index - first < len(self.labels):
            named.add(self.labels[index - first])
        if len(named) != 1:
            reason = "may name one choice or another" if named else f"is none of the {len(self.labels)} choices"
            raise BadRowError(name, f"{reason}: {gold!r}")
        return named.pop()


def read_choices(name: str, value: Any) -> Choices | None:
    """The choices in a column: a list of texts, a list of objects with label and text, an object with the lists `label`
    and `text`, or an object of texts by label; any of them also as JSON text. None if there are none. BadRowError if
    they cannot be used."""
    if isinstance(value, str):
        value = _from_text(name, value)
    if value is None or value in ([], {}):
        return None
    labels, texts = _pairs(name, value)
    if labels is None and len(texts) <= len(ascii_uppercase):
        labels, texts = _own_labels(texts)
        return Choices(labels, texts, numbered=True)
    if labels is None:
        raise BadRowError(name, f"holds {len(texts)} choices; {len(ascii_uppercase)} letters are all there are")
    if len(set(labels)) < len(labels):
        raise BadRowError(name, "holds two choices with one label")
    return Choices(labels, texts, numbered=False)


def first_index(golds: Sequence[tuple[str, Choices]]) -> int:
    """Whether the gold indices of a table count from 0, as is usual, or from 1: no row says 0 and some row says the
    number of its choices."""
    found = [(index, len(choices.labels)) for gold, choices in golds if (index := _index(gold)) is not None]
    return int(any(index == count for index, count in found) and all(index > 0 for index, _ in found))


def _index(gold: str) -> int | None:
    return int(gold) if re.fullmatch(r"\d{1,3}", gold) else None


def _from_text(name: str, text: str) -> Any:
    if not text.strip():
        return None
    try:
        return parsed_json(text)
    except (ValueError, RecursionError) as error:
        raise BadRowError(name, "must be a list or an object of choices, not text") from error


def _pairs(name: str, value: Any) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    if isinstance(value, dict):
        parts = {plain_name(key): part for key, part in value.items()}
        labels, texts = parts.get("label"), parts.get("text")
        if isinstance(labels, list) and isinstance(texts, list):
            if len(labels) != len(texts):
                raise BadRowError(name, f"holds {len(labels)} labels and {len(texts)} texts")
            return _labels(name, labels), _texts(name, texts)
        return _labels(name, list(value)), _texts(name, list(value.values()))
    if isinstance(value, list) and all(isinstance(choice, dict) for choice in value):
        return (
            _labels(name, [choice.get("label", choice.get("key")) for choice in value]),
            _texts(name, [choice.get("text", choice.get("value")) for choice in value]),
        )
    if isinstance(value, list):
        return None, _texts(name, value)
    raise BadRowError(name, f"must be a list or an object of choices, not {kind_of(value)}")


def _labels(name: str, labels: list[Any]) -> tuple[str, ...]:
    return tuple(label.upper() if len(label) == 1 else label for label in _texts(name, labels))


def _texts(name: str, values: list[Any]) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str | int):
            raise BadRowError(name, f"holds {kind_of(value)} where a choice's text or label is needed")
    return tuple(answer_text(name, value) for value in values)


def _own_labels(texts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Letters for choices without labels. Texts that bring them, such as `A) 21`, lose them."""
    letters = tuple(ascii_uppercase[: len(texts)])
    matches = [_LABELLED.fullmatch(text) for text in texts]
    labelled = [match.groups() for match in matches if match is not None]
    if len(labelled) == len(texts) and tuple(label.upper() for label, _ in labelled) == letters:
        return letters, tuple(text for _, text in labelled)
    return letters, texts
