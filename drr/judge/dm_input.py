"""The one rendering of (question, steps) that training, calibration and serving share.

The question is put in the DM tokenizer's chat template with the assistant's turn opened, or followed by a blank
line where there is no template. Every step is tokenised by itself and appended, so that a longer context always
begins with the shorter one's ids and the DM's prefix cache pays for new steps only.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

RENDERING_VERSION = 1
"""Raised whenever the same text would give other ids; a DM is refused by a server with another version."""


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


def question_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The conversation as one question: the user's text alone if that is all there is, else `role: text` lines.

    Parts that are not text (images, audio, tool calls) are left out; the DM cannot read them.
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
    """The DM's token ids for one attempt, grown step by step.

    Where they would exceed `max_tokens`, the oldest steps are dropped until at most half of the room is used, so
    that the ids stay a growing prefix for many steps before they have to be computed anew. A question that fills
    more than half of the room by itself keeps its end.
    """

    def __init__(self, tokenizer: Tokenizer, question: str, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._question_ids = _question_ids(tokenizer, question)[-(max_tokens // 2) :]
        self._steps: list[list[int]] = []

    def append(self, step: str) -> list[int]:
        """Add a step; returns the ids of the whole input, ready to be scored."""
        self._steps.append(self._tokenizer.encode(step, add_special_tokens=False)[-(self._max_tokens // 2) :])
        if self._length() > self._max_tokens:
            while len(self._steps) > 1 and self._length() > self._max_tokens // 2:
                del self._steps[0]
        return self.ids

    @property
    def ids(self) -> list[int]:
        """Ids of the question and the steps held."""
        return [*self._question_ids, *(token for step in self._steps for token in step)]

    def _length(self) -> int:
        return len(self._question_ids) + sum(map(len, self._steps))


def _question_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        return tokenizer.encode(str(prompt), add_special_tokens=False)
    return tokenizer.encode(question + "\n\n", add_special_tokens=True)
