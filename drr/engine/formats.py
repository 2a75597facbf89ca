"""Which reasoning format a Reasoner has: read from vLLM's reasoning parser, the tokenizer and the chat template.

Everything is checked with the tokenizer that will be used; what does not fit is an InputError in one sentence.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.reasoning import ReasoningParserManager

from drr.engine.defaults import DEFAULT_ANSWER_CUE as DEFAULT_ANSWER_CUE
from drr.errors import InputError
from drr.loop.formats import Channels, MarkerTokens, PlainChain, ReasoningFormat, TextMarkers

_HARMONY = {"start": "<|start|>", "channel": "<|channel|>", "message": "<|message|>", "end": "<|end|>"}
_HARMONY_PARSER = "openai_gptoss"
_THINK = ("<think>", "</think>")
_THINK_PARSER = "deepseek_r1"
"""vLLM's parser of the most common markers, for models that are started without one."""

_UNNAMED_MARKERS = {"granite": ("Here is my thought process:", "Here is my response:")}
"""Markers of parsers that know some and do not tell."""

_TOOL_OPENERS = (
    "<tool_call>",
    "<|tool_calls_section_begin|>",
    "<｜tool▁calls▁begin｜>",  # noqa: RUF001  # DeepSeek's own bars
    "<minimax:tool_call>",
    "<seed:tool_call>",
    "<|tool_call_start|>",
    "<|tool_call>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<function_calls>",
)
"""What opens a tool call in the models that vLLM has tool parsers for."""

_RESULT = "result-of-a-tool"
"""Stands for a tool's result where a chat template is asked what comes behind one."""

_THINKING_ON = {"chat_template_kwargs": {"thinking": True, "enable_thinking": True}}


class UnmarkedThinkingError(InputError):
    """A reasoning parser that does not tell how thinking is marked: it cannot be closed from outside."""


@dataclass(frozen=True, slots=True)
class ChosenFormat:
    """A format, and the name of the vLLM parser that goes with it; empty where the model needs none."""

    form: ReasoningFormat
    parser: str


def choose_format(tokenizer: Any, parser: str = "", answer_cue: str = DEFAULT_ANSWER_CUE) -> ChosenFormat:
    """The format of a Reasoner with this tokenizer. `parser` is vLLM's name of its reasoning parser, where the user
    gave one; InputError where that is unknown or does not fit, UnmarkedThinkingError where it does not tell how
    thinking is marked."""
    if parser:
        return ChosenFormat(_of_parser(tokenizer, parser), parser)
    added, template = tokenizer.get_added_vocab(), str(getattr(tokenizer, "chat_template", None) or "")
    if all(token in added for token in _HARMONY.values()):
        return ChosenFormat(_channels(tokenizer), _HARMONY_PARSER)
    if all(marker in added for marker in _THINK) and any(marker in template for marker in _THINK):
        return ChosenFormat(_between(tokenizer, *_THINK, ()), _THINK_PARSER)
    return ChosenFormat(_plain(tokenizer, answer_cue), "")


def _of_parser(tokenizer: Any, name: str) -> ReasoningFormat:
    try:
        parser_class = ReasoningParserManager.get_reasoning_parser(name)
    except Exception as error:  # unknown, or its module cannot be imported
        known = ", ".join(sorted(ReasoningParserManager.list_registered()))
        raise InputError("--reasoning-parser", f"vLLM knows no {name!r}; it knows {known}") from error
    if name == _HARMONY_PARSER:
        return _channels(tokenizer)
    try:
        parser = parser_class(tokenizer, **_THINKING_ON)
    except Exception as error:  # parsers raise all sorts of errors where their markers are missing
        raise InputError("--reasoning-parser", f"{name} does not fit this Reasoner: {error}") from error
    markers = _UNNAMED_MARKERS.get(name) or (parser.reasoning_start_str, parser.reasoning_end_str)
    if not markers[0] or not markers[1]:
        raise UnmarkedThinkingError(
            "--reasoning-parser", f"{name} does not say how thinking is marked: it cannot be closed from outside"
        )
    openers = [text for text in _TOOL_OPENERS if _ends_thinking(tokenizer, parser, markers[0], text)]
    return _between(tokenizer, markers[0], markers[1], openers)


def _ends_thinking(tokenizer: Any, parser: Any, opening: str, tool_opener: str) -> bool:
    """Whether vLLM's parser takes the beginning of a tool call for the end of the thinking."""
    ids = encode(tokenizer, tool_opener)
    if len(ids) != 1 or tool_opener not in tokenizer.get_added_vocab():
        return False
    thinking = [*encode(tokenizer, opening), *encode(tokenizer, "so")]
    try:
        return not parser.is_reasoning_end(thinking) and bool(parser.is_reasoning_end([*thinking, *ids]))
    except Exception:  # a parser that cannot be asked does not say so
        return False


def _between(tokenizer: Any, opening: str, closing: str, tool_openers: Sequence[str]) -> ReasoningFormat:
    """Thinking between two markers: found by their ids where the tokenizer keeps them whole, else by their text."""
    common: dict[str, Any] = {
        "open_ids": encode(tokenizer, opening),
        "close_ids": encode(tokenizer, closing),
        "close_text": closing,
        "header": assistant_header(tokenizer, opening),
        "tool_header": tool_header(tokenizer, opening),
        "decode": _decoder(tokenizer),
    }
    if _is_exact(tokenizer, opening) and _is_exact(tokenizer, closing):
        tool_ids = tuple(encode(tokenizer, text) for text in tool_openers)
        return MarkerTokens(tool_ids=tool_ids, **common)
    skip_ids = encode(tokenizer, opening + closing)
    return TextMarkers(open_text=opening, tool_texts=tuple(tool_openers), skip_ids=skip_ids, **common)


def _is_exact(tokenizer: Any, marker: str) -> bool:
    """Whether the marker begins and ends with tokens that the tokenizer never merges with their neighbours."""
    added, ids = set(tokenizer.get_added_vocab().values()), encode(tokenizer, marker)
    return bool(ids) and ids[0] in added and ids[-1] in added


def _channels(tokenizer: Any) -> ReasoningFormat:
    added = tokenizer.get_added_vocab()
    missing = [token for token in _HARMONY.values() if token not in added]
    if missing:
        raise InputError("--reasoning-parser", f"{_HARMONY_PARSER} does not fit this Reasoner: it has no {missing[0]}")
    return Channels(
        close_ids=encode(tokenizer, "<|end|><|start|>assistant<|channel|>final<|message|>"),
        close_text="",
        open_ids=encode(tokenizer, "<|channel|>analysis<|message|>"),
        skip_ids=encode(tokenizer, "<|channel|>final<|message|>"),
        header=encode(tokenizer, "<|start|>assistant"),
        decode=_decoder(tokenizer),
        ids={name: added[token] for name, token in _HARMONY.items()},
    )


def _plain(tokenizer: Any, answer_cue: str) -> ReasoningFormat:
    if not answer_cue.strip():
        raise InputError("--drr-answer-cue", "must not be blank: the Reasoner is made to answer by it")
    return PlainChain(
        close_ids=encode(tokenizer, answer_cue),
        close_text=answer_cue,
        joined_ids=encode(tokenizer, answer_cue.lstrip("\n")),
        header=assistant_header(tokenizer),
        tool_header=tool_header(tokenizer),
        decode=_decoder(tokenizer),
    )


def assistant_header(tokenizer: Any, opening: str = "") -> tuple[int, ...]:
    """The ids with which the chat template begins an assistant turn, up to the marker `opening`; empty where there is
    no template, or one that does not tell."""
    if not getattr(tokenizer, "chat_template", None):
        return ()
    message = [{"role": "user", "content": "1"}]
    try:
        asked = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        said = tokenizer.apply_chat_template(message, add_generation_prompt=False, tokenize=False)
    except Exception:  # whatever a template does
        return ()
    if not asked.startswith(said):
        return ()
    return encode(tokenizer, _without_marker(asked[len(said) :], opening))


def tool_header(tokenizer: Any, opening: str = "") -> tuple[int, ...]:
    """The ids between a tool's result and the turn behind it, up to the marker `opening`, where the chat template has
    that turn begin without the header of one; else empty."""
    header = _decoder(tokenizer)(assistant_header(tokenizer, opening))
    for content, arguments in itertools.product((None, ""), ({}, "{}")):  # templates want the one or the other
        call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": arguments}}
        messages = [
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": content, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call00001", "name": "f", "content": _RESULT},
        ]
        try:
            asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception:  # whatever a template does
            continue
        _, result, behind = asked.rpartition(_RESULT)
        behind = _without_marker(behind, opening)
        known = bool(header and result) and header not in behind and _is_exact(tokenizer, behind)
        return encode(tokenizer, behind) if known else ()
    return ()


def _without_marker(header: str, opening: str) -> str:
    """What a template puts before a turn, without the marker that opens its thinking."""
    for marker in (opening, _THINK[0]):
        if marker and marker in header:
            header = header[: header.index(marker)]
    return header.strip()


def load_parser_plugin(path: str) -> None:
    """Register the reasoning parsers of a file of the user's (vLLM's --reasoning-parser-plugin)."""
    ReasoningParserManager.import_reasoning_parser(path)


def tool_openers(tokenizer: Any) -> tuple[str, ...]:
    """The texts that open a tool call and that this tokenizer has as tokens of their own."""
    added = tokenizer.get_added_vocab()
    return tuple(text for text in _TOOL_OPENERS if text in added)


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of a text, without special tokens around it."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _decoder(tokenizer: Any) -> Any:
    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    return decode
