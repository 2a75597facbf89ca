"""Random chat completions, each decided by a seed and its number alone."""

import dataclasses
import json
import random
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.draw_drr import draw_drr
from tests.fuzz.questions import draw_question
from tests.server.running import MODEL

REGEX = "either [0-9]{1,3} or [0-9]{1,3}"
_TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
_SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
_GIVEN = ("<think>\nso: 3+4=7.\n\n", "<think>\nso: 3", "<think>\n", "<think>\nso: 3+4=7.\n\n</think>", "The answer")


@dataclass(frozen=True)
class Drawn:
    """One request. `cancel_after` are the seconds after which the client closes the connection; `twice` tells that it
    is asked whole and streamed, and must be answered the same."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    cancel_after: float | None = None
    twice: bool = False

    @property
    def drr(self) -> Any:
        """What was sent as the `drr` object, in the body or in the header; None where nothing was."""
        if "drr" in self.body:
            return self.body["drr"]
        header = self.headers.get("X-DRR")
        try:
            return None if header is None else json.loads(header)
        except ValueError:
            return header

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of that object that were set."""
        return (
            {key: value for key, value in self.drr.items() if value is not None} if isinstance(self.drr, dict) else {}
        )

    @property
    def repeatable(self) -> bool:
        """Whether the same request has the same answer; to vLLM, seed -1 is none."""
        seeded = self.body.get("seed", -1) != -1 or self.body.get("temperature") == 0
        return seeded and self.keys.get("scorer") != "random"

    def asked(self, *, stream: bool) -> "Drawn":
        """The same request, streamed or whole."""
        if bool(self.body.get("stream")) is stream:
            return self
        body = {key: value for key, value in self.body.items() if key not in ("stream", "stream_options")}
        return dataclasses.replace(self, body={**body, "stream": True} if stream else body)

    def content(self) -> bytes:
        """The body as it is sent, lone surrogates and numbers that JSON does not know among it."""
        return json.dumps(self.body).encode()


def draw(seed: int, number: int) -> Drawn:
    """Request `number` of the run that `seed` names."""
    rng = random.Random(f"{seed}/{number}")
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": draw_question(rng)}]}
    headers: dict[str, str] = {}
    _add_lengths(rng, body)
    _add_sampling(rng, body)
    if body.get("temperature") == 0 and rng.random() < 0.9:
        body.pop("n", None)  # vLLM refuses more than one greedy choice
    _add_shown(rng, body)
    _add_forms(rng, body)
    _add_thinking(rng, body)
    _add_drr(rng, body, headers)
    if rng.random() < 0.04:
        _add_fault(rng, body)
    if rng.random() < 0.5:
        body["stream"] = True
        options = rng.choice(
            (None, None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True})
        )
        if options is not None:
            body["stream_options"] = options
    cancel_after = rng.uniform(0.0, 0.5) if rng.random() < 0.07 else None
    drawn = Drawn(number, body, headers, cancel_after)
    twice = cancel_after is None and drawn.repeatable and rng.random() < 0.3
    return Drawn(number, body, headers, cancel_after, twice)


def _add_lengths(rng: random.Random, body: dict[str, Any]) -> None:
    usual = [rng.randint(9, 90) for _ in range(4)] + [rng.randint(90, 300) for _ in range(3)]
    most = rng.choice((None, 1, rng.randint(1, 12), rng.randint(300, 700), *usual))
    if most is not None:
        body["max_completion_tokens" if rng.random() < 0.2 else "max_tokens"] = most
    if rng.random() < 0.08:
        body["min_tokens"] = rng.randint(1, most or 60)
    if rng.random() < 0.05 and most is not None:
        body["ignore_eos"] = True
    if rng.random() < 0.2:
        body["n"] = rng.choice((1, 2, 2, 3))


def _add_sampling(rng: random.Random, body: dict[str, Any]) -> None:
    temperature = rng.choice((None, 0, 0, 0.5, 0.8, 1.0, 1.6, 2.0))
    if temperature is not None:
        body["temperature"] = temperature
    if rng.random() < 0.85:
        body["seed"] = rng.choice((0, 1, -1, rng.randrange(2**31), 2**63 - 1))
    for name, values in (
        ("presence_penalty", (-2.0, 0.5, 2.0)),
        ("frequency_penalty", (-1.0, 0.3, 2.0)),
        ("repetition_penalty", (0.9, 1.2)),
        ("top_p", (0.1, 0.9, 1.0)),
        ("top_k", (-1, 1, 5)),
        ("min_p", (0.0, 0.2)),
        ("logit_bias", ({"2": -100}, {"694": 12}, {"2": 5})),
        ("cache_salt", ("salt",)),
        ("use_beam_search", (True,)),
    ):
        if rng.random() < (0.01 if name == "use_beam_search" else 0.04):
            body[name] = rng.choice(values)


def _add_shown(rng: random.Random, body: dict[str, Any]) -> None:
    if rng.random() < 0.6:
        body["return_token_ids"] = True
    if rng.random() < 0.2:
        body["logprobs"] = True
        if rng.random() < 0.5:
            body["top_logprobs"] = rng.choice((0, 1, 3))
        if rng.random() < 0.5:
            body["return_tokens_as_token_ids"] = True
    if rng.random() < 0.04:
        body["include_reasoning"] = rng.random() < 0.5


def _add_forms(rng: random.Random, body: dict[str, Any]) -> None:
    """What the answer has to look like, and what ends it."""
    if rng.random() < 0.15:
        body["stop"] = rng.choice((".", "\n", "=", " answer", ["is", "7"], ["\n\n", "zzz"], "The answer is"))
        if rng.random() < 0.3:
            body["include_stop_str_in_output"] = True
    form = rng.random()
    if form < 0.06:
        body["structured_outputs"] = {"regex": REGEX}
    elif form < 0.08:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA}}
    elif form < 0.09:
        body["response_format"] = {"type": rng.choice(("json_object", "text"))}
    elif form < 0.13:
        body["tools"] = [_TOOL]
        named = {"type": "function", "function": {"name": "add"}}
        choice = rng.choice((None, "none", "auto", "required", named))
        if choice is not None:
            body["tool_choice"] = choice


def _add_thinking(rng: random.Random, body: dict[str, Any]) -> None:
    """vLLM's own ways to say how much is to be thought."""
    kind = rng.random()
    if kind < 0.06:
        body["chat_template_kwargs"] = {"enable_thinking": False}
    elif kind < 0.14:
        body["messages"] = [*body["messages"], {"role": "assistant", "content": rng.choice(_GIVEN)}]
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if rng.random() < 0.1:
        body["reasoning_effort"] = rng.choice(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
    if rng.random() < 0.08:
        body["thinking_token_budget"] = rng.choice((-1, 0, 1, 9, 30, 10**6))


def _add_drr(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    """The `drr` object, in the body or the header, and an alias."""
    kind = rng.random()
    if kind < 0.7:
        body["drr"] = draw_drr(rng)
    elif kind < 0.85:
        headers["X-DRR"] = (
            rng.choice(("{", "[]", "null", "", "{}")) if rng.random() < 0.1 else json.dumps(draw_drr(rng))
        )
    if rng.random() < 0.12:
        suffix = rng.choice((":drr", ":full"))
        body["model"] = MODEL + suffix
        if isinstance(body.get("drr"), dict) and rng.random() < 0.8:
            body["drr"] |= {"mode": "auto" if suffix == ":drr" else "off"}
    if rng.random() < 0.01:
        headers["X-DRR"] = "{}"


def _add_fault(rng: random.Random, body: dict[str, Any]) -> None:
    """Something that vLLM itself refuses, or DRR beside the object."""
    name, value = rng.choice(
        (
            ("max_tokens", 0),
            ("n", 0),
            ("temperature", -1),
            ("temperature", float("nan")),
            ("stop", ""),
            ("structured_outputs", {"regex": "("}),
            ("messages", []),
            ("messages", [{"role": "user", "content": "\ud800"}]),
            ("model", "nobody:drr"),
            ("model", ":drr"),
            ("vllm_xargs", {"drr": 1}),
            ("vllm_xargs", [1]),
            ("extra_body", {"drr": {}}),
            ("thinking_token_budget", -5),
            ("reasoning_effort", "enormous"),
            ("min_tokens", 10**6),
            ("logit_bias", {"x": 1}),
            ("seed", 2**64),
        )
    )
    body[name] = value
