"""A promise holds only where everything is as it was at the calibration; whatever is not is named."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from drr.loop.policy import LIMITS, StopCause
from drr.loop.response import Outcome
from server import promise
from server.arguments import parse_args, usual_options
from server.promise import Sampled, Surroundings, changed_options, risk_object
from server.resolve import Asked, resolve
from server.schema import DrrRequest
from server.settings import Settings
from server.vllm_api import ChatCompletionRequest, ResponsesRequest
from tests.server.test_truth_table import DEFAULTS

AROUND = Surroundings(sampling={"temperature": 0.8, "top_p": 1.0}, template_reads_effort=False)
QUESTION: Any = [{"role": "user", "content": "What is 1 + 1?"}]

OTHER: dict[str, Any] = {
    "frequency_penalty": 0.5,
    "logit_bias": {"5": 1.0},
    "presence_penalty": 0.5,
    "response_format": {"type": "json_object"},
    "stop": ["\n\n"],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "thinking_token_budget": 10,
    "use_beam_search": True,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "watermarking": True,
    "stop_token_ids": [3],
    "include_stop_str_in_output": True,
    "ignore_eos": True,
    "min_tokens": 30,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "truncate_prompt_tokens": 5,
    "allowed_token_ids": [1, 2],
    "bad_words": ["no"],
    "add_generation_prompt": False,
    "continue_final_message": True,
    "add_special_tokens": True,
    "documents": [{"text": "a"}],
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "structured_outputs": {"regex": "a"},
    "repetition_detection": {"max_pattern_size": 4, "min_count": 3},
    "temperature": 0.3,
    "top_p": 0.5,
    "top_k": 4,
    "max_tokens": 100,
    "max_completion_tokens": 100,
    "reasoning_effort": "none",
}
"""A value of every field that changes what is sampled."""

SAME: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    {"temperature": None, "stop": None, "logit_bias": {}, "presence_penalty": 0.0, "frequency_penalty": 0},
    {"max_tokens": 1024, "n": 3, "seed": 4, "user": "me", "stream": True, "logprobs": True, "top_logprobs": 2},
    {"max_completion_tokens": 4000, "response_format": {"type": "text"}, "tools": None, "reasoning_effort": "low"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}]},
]


def risky(**drr: Any) -> Settings:
    return resolve(DrrRequest.parse({"max_lost_correct": 0.05, **drr}), DEFAULTS, Asked(temperature=0.8))


def broken_by(request: ChatCompletionRequest, own: Settings, around: Surroundings, **options: Any) -> list[str]:
    return promise.broken_by(request, own, around, Sampled.of_chat(request), **options)


def request_of(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"model": "m", "messages": QUESTION, **fields})


@pytest.mark.parametrize("fields", SAME)
def test_a_request_as_at_the_calibration_breaks_nothing(fields: dict[str, Any]) -> None:
    assert broken_by(request_of(**fields), risky(), AROUND) == []


@pytest.mark.parametrize("name", OTHER)
def test_a_field_that_changes_the_sampling_is_named(name: str) -> None:
    if name not in ChatCompletionRequest.model_fields:
        pytest.skip(f"this vLLM has no field {name}")
    request = request_of()
    request = request.model_copy(update={name: OTHER[name]})
    expected = "max_tokens" if name == "max_completion_tokens" else name
    assert expected in broken_by(request, risky(), AROUND)


def test_a_field_that_nobody_has_thought_of_is_named() -> None:
    """Of every field of vLLM's request that is on no list, any other value than its own breaks the promise."""
    fields = ChatCompletionRequest.model_fields.items()
    unlisted = [
        (name, field)
        for name, field in fields
        if name not in promise._CHANGES_NOTHING and name not in promise._COMPARED
    ]
    assert len(unlisted) > 20
    for name, field in unlisted:
        default = None if field.default is PydanticUndefined else field.default
        other: Any = not default if isinstance(default, bool) else "something else"
        assert name in broken_by(request_of().model_copy(update={name: other}), risky(), AROUND), name


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, *QUESTION],
        [*QUESTION, {"role": "assistant", "content": "2"}, *QUESTION],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
        [{"role": "assistant", "content": "2"}],
    ],
)
def test_another_conversation_is_named(messages: Any) -> None:
    request = request_of().model_copy(update={"messages": messages})
    assert broken_by(request, risky(), AROUND) == ["messages"]


@pytest.mark.parametrize(
    ("drr", "named"),
    [
        ({"max_steps": 3}, "max_steps"),
        ({"max_thinking_tokens": 30}, "max_thinking_tokens"),
        ({"min_steps": 2}, "min_steps"),
        ({"min_step_tokens": 5}, "min_step_tokens"),
        ({"nudge": 1}, "nudge"),
        ({"max_rethinks": 1}, "max_rethinks"),
        ({"on_exhausted": "abstain"}, "max_rethinks"),
    ],
)
def test_drr_options_beside_the_certified_rule_are_named(drr: dict[str, Any], named: str) -> None:
    assert broken_by(request_of(), risky(**drr), AROUND) == [named]


def test_what_surrounds_the_request_is_named() -> None:
    warm = replace(AROUND, sampling={"temperature": 0.8, "repetition_penalty": 1.1, "min_p": 0.05})
    assert broken_by(request_of(), risky(), warm) == ["repetition_penalty", "min_p"]
    assert broken_by(request_of(), risky(), replace(AROUND, changed=("quantization",))) == ["quantization"]
    assert broken_by(request_of(), risky(), AROUND, lora=True) == ["model"]
    reads = replace(AROUND, template_reads_effort=True)
    assert broken_by(request_of(reasoning_effort="low"), risky(), reads) == ["reasoning_effort"]


@pytest.mark.parametrize(
    ("option", "value", "changed"),
    [
        ("quantization", "fp8", True),
        ("kv_cache_dtype", "fp8", True),
        ("speculative_config", {"model": "x"}, True),
        ("logits_processors", ["a.B"], True),
        ("override_generation_config", {"temperature": 0.1}, True),
        ("chat_template", "x", True),
        ("default_chat_template_kwargs", {"enable_thinking": False}, True),
        ("drr_answer_tokens", 5, True),
        ("dm_allow_mismatch", True, True),
        ("gpu_memory_utilization", 0.3, False),
        ("max_num_seqs", 3, False),
        ("model", "other", False),
    ],
)
def test_options_that_make_the_engine_another_are_named(option: str, value: Any, changed: bool) -> None:
    args, usual = parse_args([]), usual_options()
    assert changed_options(args, usual) == []
    setattr(args, option, value)
    assert changed_options(args, usual) == ([option] if changed else [])


@pytest.mark.parametrize(
    ("calibrated", "served", "holds"),
    [
        (None, None, True),
        (None, "bfloat16", False),
        ("bfloat16", None, False),
        ("bfloat16", "bfloat16", True),
        ("bfloat16", "float16", False),
        ("float16", "half", True),
        ("auto", "auto", True),
        ("auto", None, False),
        (None, "auto", False),
    ],
)
def test_a_promise_is_about_the_data_type_of_its_calibration(
    calibrated: str | None, served: str | None, holds: bool
) -> None:
    settings = risky()
    assert settings.calibration is not None
    sampling = {**settings.calibration.sampling, **({} if calibrated is None else {"dtype": calibrated})}
    settings = replace(settings, calibration=replace(settings.calibration, sampling=sampling))
    assert broken_by(request_of(), settings, replace(AROUND, dtype=served)) == ([] if holds else ["dtype"])


@pytest.mark.parametrize("cause", sorted({*LIMITS, StopCause.NO_THINKING, StopCause.TOOL_CALL, StopCause.STOP_STRING}))
def test_a_response_that_a_limit_cut_never_holds(cause: StopCause) -> None:
    risk = risk_object(risky(), [], Outcome(cause), cut=False)
    assert risk is not None
    assert (risk["holds"], risk["broken_by"]) == (False, [cause.value])


def test_what_has_happened_is_part_of_the_promise() -> None:
    kept = risk_object(risky(), [], Outcome(StopCause.SURE), cut=False)
    assert kept is not None
    assert (kept["holds"], kept["certified"]) == (True, 0.05)
    for outcome, cut, named in (
        (Outcome(StopCause.SURE), True, "max_tokens"),
        (Outcome(StopCause.NATURAL, late=1), False, "late"),
        (Outcome(StopCause.NATURAL, failed=2), False, "failed"),
        (Outcome(StopCause.JUDGE_UNAVAILABLE), False, "judge_unavailable"),
    ):
        broken = risk_object(risky(), [], outcome, cut=cut)
        assert broken is not None
        assert (broken["holds"], broken["broken_by"]) == (False, [named])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, []),
        ({"stream": True, "store": False, "metadata": {"a": "b"}, "background": False, "top_logprobs": 2}, []),
        ({"text": {"format": {"type": "text"}}, "max_output_tokens": 4000, "reasoning": {"effort": "low"}}, []),
        ({"text": {"verbosity": "low"}, "include": ["reasoning.encrypted_content"], "temperature": 0.8}, []),
        ({"text": {"format": {"type": "json_object"}}}, ["text"]),
        ({"instructions": "Be brief."}, ["instructions", "input"]),
        ({"reasoning": {"effort": "none"}}, ["reasoning.effort"]),
        ({"max_output_tokens": 100}, ["max_output_tokens"]),
        ({"temperature": 0.3}, ["temperature"]),
        ({"truncation": "auto"}, ["truncation"]),
        ({"previous_response_id": "resp_1"}, ["previous_response_id"]),
    ],
)
def test_a_response_names_its_own_fields(fields: dict[str, Any], named: list[str]) -> None:
    request = ResponsesRequest.model_validate({"model": "m", "input": "1 + 1?", **fields})
    effort = request.reasoning.effort if request.reasoning is not None else None
    system = [{"role": "system", "content": request.instructions}] if request.instructions else []
    names = ("input", "reasoning.effort", "max_output_tokens")
    sampled = Sampled([*system, *QUESTION], effort, request.max_output_tokens, names)
    assert promise.broken_by(request, risky(), AROUND, sampled) == named
