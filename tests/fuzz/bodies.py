"""JSON bodies that are wrong in one way or several, and the requests that they are made from."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fuzz.draw_drr import draw_drr
from tests.server.running import MODEL

_FEW = 8
"""Tokens that a request may make that says how many."""

_MESSAGES: list[Any] = [{"role": "user", "content": "What is 3 + 4?"}]
_FUNCTION = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
_TOOLS: list[Any] = [{"type": "function", "function": _FUNCTION}]

TEMPLATES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "/v1/chat/completions": (
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW},
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW, "stream": True, "drr": {"mode": "off"}},
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW, "tools": _TOOLS, "tool_choice": "auto"},
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW, "logprobs": True, "top_logprobs": 2, "n": 2},
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW, "drr": {"mode": "rethink", "max_rethinks": 1}},
    ),
    "/v1/completions": (
        {"model": MODEL, "prompt": "3 + 4 =", "max_tokens": _FEW},
        {"model": MODEL, "prompt": [1, 2, 3], "max_tokens": _FEW, "echo": True, "logprobs": 2, "stream": True},
    ),
    "/v1/responses": (
        {"model": MODEL, "input": "What is 3 + 4?", "max_output_tokens": _FEW},
        {"model": MODEL, "input": _MESSAGES, "max_output_tokens": _FEW, "stream": True, "reasoning": {"effort": "low"}},
    ),
    "/v1/messages": (
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW, "system": "Be short."},
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW, "stream": True, "stop_sequences": ["7"]},
    ),
    "/v1/messages/count_tokens": ({"model": MODEL, "messages": _MESSAGES},),
    "/v1/chat/completions/batch": ({"model": MODEL, "messages": [_MESSAGES, _MESSAGES], "max_tokens": _FEW},),
    "/tokenize": ({"model": MODEL, "prompt": "3 + 4"}, {"model": MODEL, "messages": _MESSAGES}),
    "/detokenize": ({"model": MODEL, "tokens": [1, 2, 3]},),
    "/invocations": ({"model": MODEL, "messages": _MESSAGES, "max_tokens": _FEW},),
    "/generative_scoring": ({"model": MODEL, "query": "3 + 4 =", "items": ["7", "8"], "label_token_ids": [5, 6]},),
    "/v1/systemone": (
        {"model": MODEL, "state": "It rains.", "questions": {"wet": {"question": "Is it wet?", "choices": ["y", "n"]}}},
    ),
}
"""Requests that are right, by path: each makes a few tokens at most."""

_WEIGHTS = {"/v1/chat/completions": 8, "/v1/completions": 4, "/v1/responses": 4, "/v1/messages": 3}


@dataclass(frozen=True)
class Raw:
    """JSON text that stands for itself, right or not."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """An object whose keys may be there more than once."""

    items: tuple[tuple[str, Any], ...]


def encode(value: Any) -> str:
    """JSON text of a value, with what Python's own encoder does not write."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {encode(each)}" for key, each in value.items) + "}"
    if isinstance(value, dict):
        return encode(Pairs(tuple(value.items())))
    if isinstance(value, list):
        return "[" + ", ".join(map(encode, value)) + "]"
    return json.dumps(value)


def draw_path(rng: random.Random) -> str:
    """An endpoint that takes a body, the busiest ones most often."""
    return rng.choices(list(TEMPLATES), [_WEIGHTS.get(path, 1) for path in TEMPLATES])[0]


def draw_template(rng: random.Random, path: str) -> dict[str, Any]:
    """A request that is right, of this endpoint."""
    body: dict[str, Any] = json.loads(json.dumps(rng.choice(TEMPLATES[path])))
    return body


def _nested(rng: random.Random) -> Raw:
    depth = rng.choice((50, 300, 990, 5_000, 100_000))
    before, after = rng.choice((("[", "]"), ('{"a":', "}")))
    return Raw(before * depth + "1" + after * depth)


_ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: None,
    lambda rng: rng.choice((True, False)),
    lambda rng: rng.choice((0, -1, 1, 1.5, -0.0, 2**31, -(2**31), 2**63, 2**64, 10**30, -(10**30))),
    lambda rng: rng.choice((float("nan"), float("inf"), -float("inf"))),
    lambda rng: Raw(rng.choice(("1e400", "-1e400", "1E-400", "9" * 5_000, "0." + "3" * 5_000, "-0", "1e5"))),
    lambda rng: Raw(rng.choice(("01", "+1", ".5", "0x10", "NaN", "undefined", "True", "'a'", "", "1,,2", "[1,]"))),
    lambda rng: rng.choice(("", " ", "0", "null", "true", "-1", "a" * 20_000, "drr", "../../etc/passwd", "%s%n{0}")),
    lambda rng: rng.choice(
        ("\0", "a\0b", "\ud800", "\udfff\ud800", "\N{PILE OF POO}" * 50, "\u202e", "\ufeff", "̈" * 999)
    ),
    lambda rng: Raw(rng.choice(('"\\ud800"', '"\\u12"', '"\\x41"', '"\t"', '"\\', '"\\udc00\\ud800"'))),
    lambda rng: rng.choice(([], {}, [[]], [None], [{}], {"": None}, {"a": {"b": []}}, [1, "a", None], [[[[]]]])),
    lambda rng: [rng.choice((0, "a", None, {}, -1))] * rng.choice((1, 3, 5_000)),
    lambda rng: {f"k{number}": number for number in range(rng.choice((1, 20, 2_000)))},
    _nested,
)
"""Values that fit nowhere, or in few places."""


def odd(rng: random.Random) -> Any:
    """A value that hardly anything expects."""
    return rng.choice(_ODD)(rng)


_REGEXES = (
    "(",
    "[",
    "a{2,1}",
    "(?<=a)b",
    "\\p{Nope}",
    "(a+)+$",
    "a{100000}",
    "\\",
    "(?P<a>",
    "*",
    "",
    "\ud800",
    "(?R)",
)
_GRAMMARS = (
    "",
    "root ::=",
    'root ::= "a',
    "root ::= root",
    "root ::= missing",
    "not a grammar",
    "root ::= (" * 99,
    "\0",
)
_SCHEMAS: tuple[Any, ...] = (
    {"$ref": "#"},
    {"$ref": "#/$defs/none"},
    {"$ref": "http://127.0.0.1:1/schema"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "nothing"},
    {"type": 5},
    {"type": "object", "properties": 5},
    {"type": "object", "required": "a"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(?=a)"},
    {"type": "string", "minLength": 10**9},
    {"type": "integer", "minimum": 5, "maximum": 1},
    {"type": "array", "minItems": -1},
    {"enum": []},
    {"anyOf": []},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"const": float("nan")},
    False,
    [],
    "{",
    "{}",
    None,
)


def _structured(rng: random.Random) -> Any:
    kind = rng.choice(("regex", "grammar", "json", "choice", "structural_tag", "json_object", "two", "other"))
    drawn: dict[str, Any] = {
        "regex": rng.choice(_REGEXES),
        "grammar": rng.choice(_GRAMMARS),
        "json": rng.choice(_SCHEMAS),
        "choice": rng.choice(([], [""], ["a", 1], ["a"] * 2_000, "a", {}, [None], ["\0"], ['"'])),
    }
    if kind == "two":
        return {name: drawn[name] for name in rng.sample(list(drawn), 2)}
    if kind == "structural_tag":
        tags = ("{", "{}", "[]", '{"type": "structural_tag"}', '{"type": "structural_tag", "format": {"type": "x"}}')
        return {kind: rng.choice((*tags, 5, {}))}
    if kind in drawn:
        return {kind: drawn[kind]}
    return {kind: odd(rng)}


def _response_format(rng: random.Random) -> Any:
    schema = rng.choice(_SCHEMAS)
    return rng.choice(
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
            {"type": "json_schema", "json_schema": {"schema": schema}},
            {"type": "json_schema", "json_schema": schema},
            {"type": "json_schema"},
            {"type": "regex", "pattern": rng.choice(_REGEXES)},
            {"type": "grammar", "grammar": rng.choice(_GRAMMARS)},
            {"type": "structural_tag", "structures": odd(rng), "triggers": ["<"]},
            {"type": "structural_tag", "format": {"type": "const_string", "value": odd(rng)}},
            {"type": "xml"},
            odd(rng),
        )
    )


def _tools(rng: random.Random) -> Any:
    function = rng.choice(
        (
            {"name": rng.choice(("", "a b", "\0", "x" * 500, 5, None)), "parameters": {}},
            {"name": "add", "parameters": rng.choice(_SCHEMAS)},
            {"parameters": {}},
            {},
            odd(rng),
        )
    )
    tool = rng.choice(({"type": "function", "function": function}, {"type": "search"}, function, {"name": "a"}))
    return rng.choice(([tool], [tool, tool], tool, [tool] * 300))


def _tool_choice(rng: random.Random) -> Any:
    named = {"type": "function", "function": {"name": rng.choice(("add", "none", "", "\0", 5))}}
    return rng.choice(("auto", "required", "none", "any", named, {"type": "tool"}, {"type": "any"}, odd(rng)))


def _logit_bias(rng: random.Random) -> Any:
    token = rng.choice(("2", "-1", "999999999", "x", "", "1.5", "9" * 400, "\0", " 3"))
    many = {str(number): 1 for number in range(rng.choice((300, 3_000)))}
    return rng.choice(({token: rng.choice((1, 1e308, float("nan"), None, "a", -1e9, []))}, many, odd(rng)))


def _content(rng: random.Random) -> Any:
    address = rng.choice(("file:///etc/passwd", "http://127.0.0.1:1/a.png", "data:image/png;base64,AAAA", "", "x"))
    part = rng.choice(
        (
            {"type": "text"},
            {"type": "text", "text": odd(rng)},
            {"type": "image_url", "image_url": {"url": address}},
            {"type": "image_url", "image_url": address},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "video_url", "video_url": {"url": address}},
            {"type": "file", "file": {"file_id": "a"}},
            {"type": "refusal", "refusal": "no"},
            {"type": "image_embeds", "image_embeds": "AAAA"},
            {"type": "input_text", "text": "a"},
            {"type": "tool_result", "tool_use_id": "a", "content": odd(rng)},
            {"type": "tool_use", "id": "a", "name": "b", "input": odd(rng)},
            {"type": "thinking", "thinking": odd(rng), "signature": 5},
            odd(rng),
        )
    )
    return rng.choice(([part], [part] * 40, part, "<think>" * rng.choice((1, 500)), "</think>", ""))


def _messages(rng: random.Random) -> Any:
    role = rng.choice(("user", "assistant", "system", "developer", "tool", "function", "", "root", 5, None))
    message: dict[str, Any] = {"role": role, "content": _content(rng)}
    extra = rng.choice(
        (
            {},
            {"tool_calls": odd(rng)},
            {"tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": "{"}}]},
            {"tool_call_id": odd(rng)},
            {"reasoning": odd(rng)},
            {"reasoning_content": "x"},
            {"name": odd(rng)},
            {
                "type": rng.choice(
                    ("message", "reasoning", "function_call", "function_call_output", "item_reference", "")
                )
            },
        )
    )
    message |= extra
    return rng.choice(
        ([message], [*_MESSAGES, message], [message, *_MESSAGES], [], [message] * 50, [[message]], message)
    )


_PROMPTS: tuple[Any, ...] = (
    "",
    [],
    [[]],
    [""],
    [-1],
    [10**9],
    [2**63],
    [1.5],
    [[1], "a"],
    ["a", 1],
    [[1, 2], [3, -4]],
    {},
)
_FIELDS: Mapping[str, Callable[[random.Random], Any]] = {
    "structured_outputs": _structured,
    "response_format": _response_format,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "logit_bias": _logit_bias,
    "messages": _messages,
    "input": lambda rng: rng.choice((_messages(rng), _content(rng), "", [])),
    "prompt": lambda rng: rng.choice((*_PROMPTS, "a " * 40_000, odd(rng))),
    "prompt_embeds": lambda rng: rng.choice(("", "AAAA", "%%%", ["AAAA"], odd(rng))),
    "tokens": lambda rng: rng.choice(([-1], [2**31], [2**63], [1.5], ["1"], [1] * 20_000, odd(rng))),
    "drr": draw_drr,
    "stop": lambda rng: rng.choice(("", [""], ["a"] * 500, "b" * 9_000, [None], [[]], "\ud800", odd(rng))),
    "stop_token_ids": lambda rng: rng.choice(([-1], [10**9], [2**63], ["1"], list(range(900)), odd(rng))),
    "allowed_token_ids": lambda rng: rng.choice(([], [-1], [10**9], [2**63], ["1"], odd(rng))),
    "bad_words": lambda rng: rng.choice(([""], [" "], ["a" * 999], ["\0"], [5], odd(rng))),
    "logprobs": lambda rng: rng.choice((True, -1, 0, 21, 10**9, 1.5, "all", odd(rng))),
    "top_logprobs": lambda rng: rng.choice((-1, -2, 21, 10**9, 1.5, odd(rng))),
    "prompt_logprobs": lambda rng: rng.choice((-1, -2, 0, 1, 21, 10**9, odd(rng))),
    "logprob_token_ids": lambda rng: rng.choice(([], [-1], [10**9], [2**63], list(range(500)), odd(rng))),
    "max_tokens": lambda rng: rng.choice((0, -1, 2**31, 2**63, 10**30, 1.5, odd(rng))),
    "min_tokens": lambda rng: rng.choice((-1, 9, 10**6, 2**63, odd(rng))),
    "n": lambda rng: rng.choice((0, -1, 3, 2**31, 2**63, 10**30, 1.5, odd(rng))),
    "temperature": lambda rng: rng.choice((-1, 1e308, 1e-308, float("nan"), float("inf"), odd(rng))),
    "top_p": lambda rng: rng.choice((0, -0.5, 1.5, 1e-300, float("nan"), odd(rng))),
    "top_k": lambda rng: rng.choice((-2, 2**31, 2**63, 1.5, odd(rng))),
    "min_p": lambda rng: rng.choice((-1, 2, float("nan"), odd(rng))),
    "repetition_penalty": lambda rng: rng.choice((0, -1, 1e-300, 1e300, float("nan"), odd(rng))),
    "presence_penalty": lambda rng: rng.choice((-3, 3, float("nan"), odd(rng))),
    "seed": lambda rng: rng.choice((-1, 2**63, -(2**63), 2**64, 10**30, 1.5, odd(rng))),
    "stream_options": lambda rng: rng.choice(({"include_usage": True}, {"include_usage": 5}, {"a": 1}, odd(rng))),
    "truncate_prompt_tokens": lambda rng: rng.choice((-2, -1, 0, 1, 10**9, odd(rng))),
    "chat_template": lambda rng: rng.choice(("{{ 1/0 }}", "{% for %}", "{{ ''.__class__.__mro__ }}", odd(rng))),
    "chat_template_kwargs": lambda rng: rng.choice(
        ({"enable_thinking": odd(rng)}, {"messages": 5}, {"tokenize": True}, {"chat_template": "{{ 7 }}"}, odd(rng))
    ),
    "documents": lambda rng: rng.choice(([{"title": "a", "text": "b"}], [{}], odd(rng))),
    "mm_processor_kwargs": lambda rng: rng.choice(({"a": 1}, odd(rng))),
    "vllm_xargs": lambda rng: rng.choice(({"drr": "x"}, {"drr_plan": 1}, {"a": [1]}, odd(rng))),
    "kv_transfer_params": lambda rng: rng.choice(({"do_remote_prefill": True}, {"a": 1}, odd(rng))),
    "cache_salt": lambda rng: rng.choice(("", "a" * 9_000, "\ud800", odd(rng))),
    "request_id": lambda rng: rng.choice(("", "same", "a\r\nb", "\0", "x" * 9_000, odd(rng))),
    "priority": lambda rng: rng.choice((5, -(2**63), 2**63, odd(rng))),
    "suffix": lambda rng: rng.choice(("a", odd(rng))),
    "best_of": lambda rng: rng.choice((0, 2, -1, odd(rng))),
    "use_beam_search": lambda rng: rng.choice((True, odd(rng))),
    "continue_final_message": lambda rng: rng.choice((True, odd(rng))),
    "add_generation_prompt": lambda rng: rng.choice((False, True, odd(rng))),
    "reasoning_effort": lambda rng: rng.choice(("enormous", "low", "none", odd(rng))),
    "reasoning": lambda rng: rng.choice(({"effort": "enormous"}, {"summary": 5}, {"effort": None}, odd(rng))),
    "thinking": lambda rng: rng.choice(({"type": "enabled", "budget_tokens": -5}, {"type": "x"}, odd(rng))),
    "thinking_token_budget": lambda rng: rng.choice((-5, 0, 2**63, odd(rng))),
    "previous_response_id": lambda rng: rng.choice(("resp_none", "", odd(rng))),
    "background": lambda rng: rng.choice((True, odd(rng))),
    "text": lambda rng: {"format": rng.choice((_response_format(rng), {"type": "json_schema", "name": "a"}))},
    "include": lambda rng: rng.choice((["message.output_text.logprobs"], ["x"], odd(rng))),
    "model": lambda rng: rng.choice(
        (f"{MODEL}:drr", f"{MODEL}:", f"{MODEL}:full:full", "", "\0", "x" * 9_000, odd(rng))
    ),
    "system": _content,
    "questions": lambda rng: rng.choice(({}, {"a": {"question": "b", "choices": []}}, {"a": odd(rng)}, odd(rng))),
    "state": odd,
    "items": lambda rng: rng.choice(([], [""], [[1]], ["a"] * 60, odd(rng))),
    "label_token_ids": lambda rng: rng.choice(([], [-1], [10**9], [1] * 60, odd(rng))),
}
"""Values that are wrong, or nearly, for fields that endpoints know. None asks for thousands of engine requests: that
would be right."""


_CONVERSATION = ("model", "messages", "tools", "chat_template", "chat_template_kwargs", "continue_final_message")
_ONLY: Mapping[str, tuple[str, ...]] = {
    "/tokenize": (*_CONVERSATION, "prompt", "add_generation_prompt", "mm_processor_kwargs", "drr"),
    "/detokenize": ("model", "tokens", "drr"),
    "/v1/messages/count_tokens": (*_CONVERSATION, "system", "thinking", "tool_choice", "drr"),
    "/generative_scoring": ("model", "items", "label_token_ids", "cache_salt", "priority", "request_id"),
    "/v1/systemone": ("model", "questions", "state", "chat_template_kwargs", "cache_salt", "priority", "request_id"),
    "/v1/messages": (
        *_CONVERSATION,
        *("system", "thinking", "tool_choice", "max_tokens", "temperature", "top_k", "top_p", "vllm_xargs"),
        *("cache_salt", "kv_transfer_params", "drr"),
    ),
}
"""Of these endpoints, the fields that are worth a fault."""

_ELSEWHERE = {"tokens", "items", "label_token_ids", "questions", "state", "system", "thinking"}
_OF_RESPONSES = {"input", "text", "include", "previous_response_id", "background", "reasoning"}


def _fields_of(path: str) -> list[str]:
    if path in _ONLY:
        return list(_ONLY[path])
    others = _ELSEWHERE if path == "/v1/responses" else _ELSEWHERE | _OF_RESPONSES
    return [name for name in _FIELDS if name not in others]


def mutate(rng: random.Random, path: str, body: dict[str, Any]) -> Any:
    """The body of a request to this endpoint with one to three faults in it."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.62:
            name = rng.choice(_fields_of(path))
            body[name] = _FIELDS[name](rng)
        elif kind < 0.8:
            _replace_somewhere(rng, body)
        elif kind < 0.86 and body:
            del body[rng.choice(list(body))]
        elif kind < 0.92:
            body[rng.choice(("", "__class__", "k" * 3_000, "\ud800", "$ref", "model_fields", "Messages"))] = odd(rng)
        else:
            name = rng.choice(list(body) or ["a"])
            return Pairs((*body.items(), (name, odd(rng)), (name, body.get(name))))
    return body


def _replace_somewhere(rng: random.Random, body: Any) -> None:
    """Put something odd in place of a value, at any depth."""
    while True:
        places = list(body) if isinstance(body, dict) else list(range(len(body)))
        if not places:
            return
        place = rng.choice(places)
        value = body[place]
        if not isinstance(value, dict | list) or not value or rng.random() < 0.4:
            body[place] = odd(rng)
            return
        body = value
