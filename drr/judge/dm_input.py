"""Renders a question and its steps as token ids for the DM, the same way in training, calibration and serving.

The question is put into the DM tokenizer's chat template with the assistant's turn opened, or is followed by a blank
line if there is no template. Every step is tokenised by itself and appended. So the ids of a longer context begin with
those of a shorter one, and with a prefix cache the DM computes new steps only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

_CHARACTERS = 8
"""More than a token usually has."""

_CUT_MARGIN = 64
"""Tokens behind a cut that its place may change."""

RENDERING_VERSION = 1
"""Increased whenever the same text would give other ids. A DM of another version is refused."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


def question_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The conversation as one question: the text of its only message, or else `role: text` lines.

    Parts that are not text (images, audio, tool calls) are left out, because the DM cannot read them.
    """
    turns = [(str(message.get("role", "user")), _text_of(message.get("content"))) for message in messages]
    turns = [(role, text) for role, text in turns if text]
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {text}" for role, text in turns)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    return "\n".join(str(part["text"]) for part in content if isinstance(part, Mapping) and part.get("text"))


class DmInput:
    """The DM's token ids for one attempt, to which steps are appended.

    If they exceed `max_tokens`, the oldest steps are dropped until at most half of that is used. So dropping, after
    which everything is computed anew, is rare. Of a question or a step longer than half of `max_tokens` only the end is
    kept.
    """

    def __init__(self, tokenizer: Tokenizer, question: str, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._question_ids = _last_ids(lambda text: _question_ids(tokenizer, text), question, max_tokens // 2)
        self._steps: list[list[int]] = []

    def append(self, step: str) -> list[int]:
        """Append a step; returns the ids of the whole input."""
        self._steps.append(_last_ids(self._encode, step, self._max_tokens // 2))
        if self._length() > self._max_tokens:
            while len(self._steps) > 1 and self._length() > self._max_tokens // 2:
                del self._steps[0]
        return self.ids

    @property
    def ids(self) -> list[int]:
        """Ids of the question and of the steps that were not dropped."""
        return [*self._question_ids, *(token for step in self._steps for token in step)]

    def _encode(self, step: str) -> list[int]:
        return self._tokenizer.encode(step, add_special_tokens=False)

    def _length(self) -> int:
        return len(self._question_ids) + sum(map(len, self._steps))


def _last_ids(encode: Callable[[str], list[int]], text: str, count: int) -> list[int]:
    """The last `count` ids of a text, without encoding much more of it than they stand for: this runs between a
    server's other work. Where a text is cut changes ids near the cut only (a word of thousands of letters apart), and
    those are not among the last."""
    characters = _CHARACTERS * count + _CUT_MARGIN
    while characters < len(text):
        ids = encode(text[-characters:])
        if len(ids) >= count + _CUT_MARGIN:
            return ids[-count:]
        characters *= 2
    return encode(text)[-count:]


def _question_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        return tokenizer.encode(str(prompt), add_special_tokens=False)
    return tokenizer.encode(question + "\n\n", add_special_tokens=True)
