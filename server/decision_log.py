"""The decision log: what becomes a row of it, and when. Nothing of it is loaded unless `--drr-decision-log` asks.

What a response was is noted while it is made; everything that takes time (rows, files) is done in the writer's thread.
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from drr.judge.dm_folder import fingerprint
from drr.loop.response import AttemptOutput, AttemptReport, Fate, Outcome, StepReport
from server import metrics
from server.choices import Choice
from server.judges import weights_of
from server.plan import ResponsePlan
from server.report import stop_cause
from server.vllm_api import AsyncLLM, SamplingParams

logger = logging.getLogger("drr")

KEY_NAME = "question.key"
"""The file in a log's folder with the key of its questions' hashes."""

_OWN_TEXTS = ("refusal", "separator")
"""Settings that are texts of the client's choice."""

_MOST = 2**31 - 1
"""What a column of the log can hold."""

_STEP_BYTES, _TOKEN_BYTES = 512, 256
"""About what a boundary and a token take in memory."""

Row = dict[str, Any]


class Writer(Protocol):
    """What takes rows; see drr.decisions.writer."""

    def submit(self, make: Callable[[], Row], size: int = 0) -> bool: ...


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What all rows of a server have in common."""

    model: str
    reasoner: str
    step_rule: str


class DecisionLog:
    """Takes a share of a server's responses into its log; with `text` it holds what was asked, thought and answered."""

    def __init__(
        self, writer: Writer, identity: LogIdentity, key: bytes, *, share: float = 1.0, text: bool = False
    ) -> None:
        """`key` is that of the questions' hashes."""
        self._writer, self._identity, self._key, self._share = writer, identity, key, share
        self.text = text

    def begin(
        self,
        plan: ResponsePlan,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
        choices: Sequence[Choice],
    ) -> "LoggedResponse | None":
        """A response that will be logged; None for one that will not. One draw decides about all choices of a request,
        and no client has a say in it."""
        if not plan.question or random.random() >= self._share:
            return None
        return LoggedResponse(self, plan, prompt, params, request_id, options, choices)

    def submit(self, make: Callable[[], Row], size: int) -> None:
        """Hand a row over; it keeps about `size` bytes until it is written."""
        self._writer.submit(make, size)

    def hashed(self, question: str) -> str:
        """16 hex digits that are equal for the same question, but for case and white space, and that say nothing to
        those who do not have the key."""
        folded = " ".join(question.casefold().split())
        return hmac.digest(self._key, folded.encode(errors="replace"), "sha256").hex()[:16]

    @property
    def identity(self) -> LogIdentity:
        """What all rows have in common."""
        return self._identity


@dataclass(slots=True)
class LoggedResponse:
    """One response that is logged, choice by choice as they end."""

    log: DecisionLog
    plan: ResponsePlan
    prompt: Mapping[str, Any]
    params: SamplingParams
    request_id: str
    options: Mapping[str, Any]
    choices: Sequence[Choice]
    _ended: set[int] = field(default_factory=set)

    def end(self, index: int, steps: Sequence[StepReport], finish_reason: str | None) -> None:
        """A choice is complete, or was aborted (no `finish_reason`). What will be written is what it is now."""
        self._ended.add(index)
        loop = self.choices[index].loop
        outputs = loop.outputs if self.log.text else []
        ended = _Ended(index, time.time(), loop.outcome, tuple(steps), finish_reason, outputs)
        size = _STEP_BYTES * len(steps) + _TOKEN_BYTES * sum(len(output.tokens) for output in outputs)
        self.log.submit(lambda: _row(self, ended), size)

    def abort_rest(self) -> None:
        """What has not ended by now never will."""
        for index, choice in enumerate(self.choices):
            if index not in self._ended:
                self.end(index, choice.loop.outcome.steps, None)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A choice at its end."""

    index: int
    time: float
    outcome: Outcome
    steps: tuple[StepReport, ...]
    finish_reason: str | None
    outputs: list[AttemptOutput]


def _row(response: LoggedResponse, ended: _Ended) -> Row:
    log, plan, outcome = response.log, response.plan, ended.outcome
    settings, adapter = plan.settings, response.options.get("lora_request")
    complete = ended.finish_reason is not None
    prompt_ids = response.prompt["prompt_token_ids"]
    return {
        "id": response.request_id,
        "choice": ended.index,
        "time": round(ended.time * 1000),
        "model": log.identity.model,
        "reasoner": log.identity.reasoner,
        "adapter": None if adapter is None else adapter.lora_name,
        "step_rule": log.identity.step_rule,
        "mode": settings.mode,
        "acts": settings.limited or (settings.judged and settings.mode != "shadow"),
        "scorer": settings.scorer,
        "judge": plan.scorer_id,
        "settings": json.dumps({k: v for k, v in settings.as_dict().items() if k not in _OWN_TEXTS}),
        "sampling": _sampling(response.params),
        "shaped_by": _shaped_by(response),
        "finish": "complete" if complete else "aborted",
        "finish_reason": ended.finish_reason,
        "stop_cause": stop_cause(plan, outcome).value if complete else None,
        "tokens": {
            "prompt": len(prompt_ids),
            "thinking": outcome.thinking_tokens,
            "answer": outcome.answer_tokens,
            "discarded": outcome.discarded_tokens,
            "probe": outcome.probe_tokens,
            "injected": outcome.injected_tokens,
            "late": outcome.late_tokens,
            "earlier": outcome.earlier_tokens,
        },
        "nudges": outcome.nudges,
        "late": outcome.late,
        "failed": outcome.failed,
        "question": log.hashed(plan.question),
        "attempts": [
            {
                "fate": attempt.fate.value,
                "thinking_tokens": attempt.thinking_tokens,
                "generated_tokens": attempt.generated_tokens,
                "discarded_tokens": attempt.discarded_tokens,
                "p_now": attempt.p_now,
            }
            for attempt in outcome.attempts or [_only_attempt(ended)]
        ],
        "boundaries": _boundaries(ended.steps),
        "canary": None,
        "text": _text(plan, ended, prompt_ids) if log.text else None,
    }


def _only_attempt(ended: _Ended) -> AttemptReport:
    """The attempt of a response that could have had no other."""
    outcome = ended.outcome
    p_now = next((step.p_now for step in reversed(ended.steps) if step.p_now is not None), None)
    stands = Fate.UNJUDGED if p_now is None else Fate.ACCEPTED
    fate = Fate.ABANDONED if ended.finish_reason is None else stands
    return AttemptReport(outcome.thinking_tokens, outcome.generated_tokens, outcome.discarded_tokens, p_now, fate)


def _sampling(params: SamplingParams) -> Row:
    return {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": min(params.top_k, _MOST),
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "seed": params.seed,
        "max_tokens": None if params.max_tokens is None else min(params.max_tokens, _MOST),
    }


def _shaped_by(response: LoggedResponse) -> list[str]:
    """What shaped the output beside prompt and sampling: whoever draws it again would have to do the same."""
    params = response.params
    shapes = {
        "grammar": params.structured_outputs is not None,
        "stop": bool(params.stop) or bool(params.stop_token_ids) or params.ignore_eos or params.min_tokens > 0,
        "tools": response.plan.tools != "none",
        "penalties": bool(params.presence_penalty or params.frequency_penalty),
        "bias": bool(params.logit_bias or params.allowed_token_ids or params.bad_words),
        "processors": bool(params.extra_args),
        "pictures": bool(response.prompt.get("multi_modal_data") or response.prompt.get("mm_kwargs")),
    }
    return [name for name, there in shapes.items() if there]


def _boundaries(steps: Sequence[StepReport]) -> list[Row]:
    """The boundaries, each with its place in the attempt's thinking, in tokens."""
    rows, offsets = [], dict[int, int]()
    for step in steps:
        offset = offsets[step.attempt] = offsets.get(step.attempt, 0) + step.tokens
        rows.append(
            {
                "attempt": step.attempt,
                "index": step.index,
                "offset": offset,
                "tokens": step.tokens,
                "p_now": step.p_now,
                "p_later": step.p_later,
                "verdict": step.verdict.value,
                "ms": step.ms,
                "late": step.late,
                "features": step.features,
            }
        )
    return rows


def _text(plan: ResponsePlan, ended: _Ended, prompt_ids: list[int]) -> Row:
    return {
        "question": _readable(plan.question),
        "answer": _readable("".join(plan.account.of(ended.index).content)),
        "prompt_ids": prompt_ids,
        "attempts": [_output(output) for output in ended.outputs],
    }


def _readable(text: str) -> str:
    """The text without what no file can hold: halves of characters, which JSON can spell."""
    return text.encode(errors="replace").decode()


def _output(output: AttemptOutput) -> Row:
    tokens = output.tokens
    return {
        "ids": [token.id for token in tokens],
        "logprobs": [token.logprob for token in tokens],
        "injected": [place for place, token in enumerate(tokens) if token.injected],
        "thinking_from": output.thinking_from,
        "thinking_to": output.thinking_to,
        "closed": output.closed,
    }


# Setting up ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def logging_decisions(args: argparse.Namespace, engine: Any) -> AsyncIterator[None]:
    """Log the engine's decisions inside, where that is asked for; leaving it writes what there is."""
    if not args.drr_decision_log:
        yield
        return
    writer, engine.drr.log = await asyncio.to_thread(_open, args, engine)
    try:
        yield
    finally:
        engine.drr.log = None
        await asyncio.to_thread(writer.close)


def _open(args: argparse.Namespace, engine: AsyncLLM) -> tuple[Any, DecisionLog]:
    from drr.decisions.writer import Limits, LogWriter  # brings pyarrow

    folder = Path(args.drr_decision_log)
    limits = Limits(
        round(args.drr_decision_log_mb * 1e6),
        round(args.drr_decision_log_total_mb * 1e6),
        args.drr_decision_log_seconds,
    )
    identity = LogIdentity((args.served_model_name or [args.model])[0], _reasoner(args, engine), args.drr_step_rule)
    writer = LogWriter(folder, limits, metrics.DecisionLogWatcher())
    log = DecisionLog(
        writer, identity, _key(folder), share=args.drr_decision_log_share, text=args.drr_decision_log_text
    )
    return writer, log


def _reasoner(args: argparse.Namespace, engine: AsyncLLM) -> str:
    """The fingerprint of the Reasoner's weights; empty where they are no files here."""
    try:
        return fingerprint(weights_of(args, engine))
    except (OSError, ValueError):
        return ""


def _key(folder: Path) -> bytes:
    """The folder's key, made for its first server. Where it cannot be kept, equal questions are known as such only as
    long as this server runs."""
    path = folder / KEY_NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
        key = path.read_bytes()
    except OSError as error:
        logger.error("The decision log's %s cannot be kept: %s", path, error.strerror)
        return secrets.token_bytes(32)
    return key if len(key) >= 32 else secrets.token_bytes(32)
