"""What is promised about a response whose stopping rule is certified, and what breaks the promise.

The promise is about the Reasoner as it was when its judge was calibrated: sampled the same way, behind the same
template, with nothing else between. Whatever is not known to be as it was then breaks it, and is named.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel

from drr.loop.policy import LIMITS, StopCause
from drr.loop.response import Outcome
from server.settings import Settings

if TYPE_CHECKING:
    from server.vllm_api import ChatCompletionRequest

_CHANGES_NOTHING = frozenset(
    {
        *("model", "stream", "stream_options", "n", "seed", "user", "metadata", "request_id", "priority", "cache_salt"),
        *("logprobs", "top_logprobs", "logprob_token_ids", "prompt_logprobs", "include_reasoning", "echo"),
        *("return_token_ids", "return_tokens_as_token_ids", "return_prompt_text", "return_token_offsets", "store"),
        *("service_tier", "safety_identifier", "prompt_cache_key", "verbosity", "tool_choice", "parallel_tool_calls"),
        *("length_penalty", "vllm_xargs", "kv_transfer_params", "ec_transfer_params", "mm_processor_kwargs"),
        *("media_io_kwargs", "stream_interval", "truncation_side"),
        *("background", "include", "session_id", "max_tool_calls", "mm_payload", "enable_response_messages"),
    }
)
"""Fields of a request that change nothing about what is sampled, or about a text without images, or only beside
another field."""

_COMPARED = frozenset(
    {
        *("messages", "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "reasoning_effort"),
        *("input", "max_output_tokens", "reasoning"),
    }
)
"""Fields that are looked at one by one."""

_SAMPLES_AS_EVER = frozenset(
    {
        *("model", "served_model_name", "tokenizer", "revision", "tokenizer_revision", "code_revision", "download_dir"),
        *("load_format", "seed", "trust_remote_code", "hf_token", "safetensors_load_strategy", "use_tqdm_on_load"),
        *("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "swap_space", "block_size"),
        *("max_num_seqs", "max_num_batched_tokens", "max_num_queued_reqs", "scheduling_policy", "stream_interval"),
        *("enable_prefix_caching", "prefix_caching_hash_algo", "enable_chunked_prefill", "async_scheduling"),
        *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "data_parallel_rank", "nnodes"),
        *("distributed_executor_backend", "enforce_eager", "compilation_config", "cudagraph_capture_sizes"),
        *("profiler_config", "fault_tolerance_config", "aux_output_config", "ec_manager_config", "eplb_config"),
        *("ignore_patterns", "model_loader_extra_config", "limit_mm_per_prompt", "media_io_kwargs"),
        *("disable_log_stats", "enable_log_requests", "aggregate_engine_logging", "otlp_traces_endpoint"),
        *("reasoning_parser", "structured_outputs_config", "reasoning_parser_plugin", "max_model_len", "max_logprobs"),
        *("enable_lora", "max_loras", "max_lora_rank", "lora_modules", "worker_cls", "show_hidden_metrics_for_version"),
        *("shutdown_timeout", "logging_config", "log_config_file", "log_level"),
    }
)
"""Engine options that leave what is sampled as it is. A LoRA breaks the promise where a request names it."""

_NEUTRAL: Mapping[str, float] = {"repetition_penalty": 1.0, "top_p": 1.0}
"""Values of other sampling parameters that change nothing; 0 where none is given."""


def changed_options(args: argparse.Namespace, usual: Mapping[str, Any]) -> list[str]:
    """The server's options that make the engine another than it was at the calibration, by name; `usual` are those of a
    server that is given none."""
    from server.vllm_api import AsyncEngineArgs  # whoever has no engine does without vLLM

    names = [field.name for field in dataclasses.fields(AsyncEngineArgs) if field.name not in _SAMPLES_AS_EVER]
    names.remove("dtype")  # it is compared with the calibration's
    changed = [name for name in names if getattr(args, name, None) not in (usual.get(name), None, {}, [])]
    beside = ("chat_template", "default_chat_template_kwargs", "drr_answer_tokens", "dm_allow_mismatch")
    return changed + [name for name in beside if getattr(args, name, None)]


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What a server knows of how requests are sampled: the model's own `sampling` defaults, whether its template reads
    `reasoning_effort`, its options that break every promise, and the `dtype` that it was told to compute in, if any."""

    sampling: Mapping[str, Any]
    template_reads_effort: bool = True
    changed: tuple[str, ...] = ()
    dtype: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Sampled:
    """What endpoints call by different names: the conversation, the effort, and the most tokens. `names` are those of
    the fields, in this order."""

    messages: Sequence[Any]
    effort: str | None = None
    max_tokens: int | None = None
    names: tuple[str, str, str] = ("messages", "reasoning_effort", "max_tokens")

    @classmethod
    def of_chat(cls, request: "ChatCompletionRequest") -> Self:
        values = vars(request)  # to ask for an attribute that is deprecated is a warning
        return cls(request.messages, request.reasoning_effort, values["max_completion_tokens"] or values["max_tokens"])


def broken_by(
    request: BaseModel, settings: Settings, around: Surroundings, sampled: Sampled, *, lora: bool = False
) -> list[str]:
    """The fields and options that make this request another than those of the calibration; `lora` tells that its model
    is an adapter."""
    calibration = settings.calibration
    assert calibration is not None
    broken = [
        *around.changed,
        *([] if _precision(around.dtype) == _precision(calibration.sampling.get("dtype")) else ["dtype"]),
        *_other_fields(request),
        *_other_sampling(request, calibration.sampling, around, sampled),
    ]
    messages, effort, _ = sampled.names
    if lora:
        broken.append("model")
    if not _is_one_question(sampled.messages):
        broken.append(messages)
    if sampled.effort == "none" or (sampled.effort is not None and around.template_reads_effort):
        broken.append(effort)
    broken += [name for name in ("max_steps", "max_thinking_tokens") if getattr(settings, name) is not None]
    broken += [name for name in ("nudge", "min_step_tokens") if getattr(settings, name)]
    broken += ["min_steps"] if settings.min_steps > 1 else []
    broken += ["max_rethinks"] if settings.rejects else []
    return list(dict.fromkeys(broken))


def _precision(dtype: str | None) -> str | None:
    """A data type by its one name; None where nobody chose one. `auto` is a choice: on a CPU, where float32 is usual,
    the model's own."""
    return {"half": "float16", "float": "float32"}.get(dtype or "", dtype)


def _other_fields(request: BaseModel) -> list[str]:
    """The fields that are set to something else than they would be without being named."""
    values = vars(request)  # to ask for an attribute that is deprecated is a warning
    return [
        name
        for name, field in type(request).model_fields.items()
        if name not in _CHANGES_NOTHING
        and name not in _COMPARED
        and values[name] not in (field.get_default(call_default_factory=True), None, [], {}, "")
        and not _is_neutral(name, values[name])
        and not _is_plain_text(values[name])
    ]


def _is_plain_text(value: Any) -> bool:
    """Whether this asks for a form of the answer that is none."""
    inner = getattr(value, "format", value) if isinstance(value, BaseModel) else value
    return (inner is None and value is not None) or getattr(inner, "type", None) == "text"


def _is_neutral(name: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and value == _NEUTRAL.get(name, 0) and name.endswith(("penalty", "_p", "min_tokens"))


def _other_sampling(
    request: BaseModel, calibrated: Mapping[str, Any], around: Surroundings, wanted: Sampled
) -> list[str]:
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **around.sampling}
    sampled = {
        name: default if vars(request).get(name) is None else vars(request)[name]
        for name, default in defaults.items()
        if name != "max_tokens"
    }
    other = [
        name
        for name, value in sampled.items()
        if _normal(name, value) != _normal(name, calibrated.get(name, _NEUTRAL.get(name, 0)))
    ]
    asked = wanted.max_tokens or around.sampling.get("max_tokens")
    least = calibrated.get("max_tokens")
    if asked is not None and least is not None and asked < least:  # more room cuts nothing short
        other.append(wanted.names[2])
    return other


def _normal(name: str, value: Any) -> float:
    number = float(value or 0.0)
    return max(0.0, number) if name == "top_k" else round(number, 9)  # 0 and -1 both mean all


def _is_one_question(messages: Sequence[Any]) -> bool:
    """Whether a conversation is a single text by the user, as it was at the calibration."""
    only = messages[0] if len(messages) == 1 else None
    if not isinstance(only, dict) or only.get("role") != "user":
        return False
    content = only.get("content")
    parts = content if isinstance(content, list) else []
    return isinstance(content, str) or all(isinstance(part, dict) and part.get("type") == "text" for part in parts)


def risk_object(settings: Settings, broken: list[str], outcome: Outcome, *, cut: bool) -> dict[str, Any] | None:
    """What is promised about a response, `cut` off by a limit or not; None where no risk was asked for."""
    calibration = settings.calibration
    if settings.max_lost_correct is None or calibration is None:
        return None
    certificate = settings.certificate
    broken = [*broken, *_happened(outcome, cut=cut)]
    return {
        "max_lost_correct": settings.max_lost_correct,
        "certified": None if certificate is None else certificate.max_lost_correct,
        "confidence": calibration.confidence,
        "calibrated_on": f"{calibration.right} questions answered right",
        "holds": not broken,
        "broken_by": list(dict.fromkeys(broken)),
    }


def _happened(outcome: Outcome, *, cut: bool) -> list[str]:
    """What has happened to a response that was not part of the calibration."""
    cause = outcome.stop_cause
    happened = [cause.value] if cause in LIMITS or cause in _UNCALIBRATED else []
    happened += ["max_tokens"] if cut and cause is not StopCause.MAX_TOKENS else []
    return happened + [name for name, count in (("late", outcome.late), ("failed", outcome.failed)) if count]


_UNCALIBRATED = frozenset(
    {StopCause.NO_THINKING, StopCause.TOOL_CALL, StopCause.STOP_STRING, StopCause.JUDGE_UNAVAILABLE}
)
