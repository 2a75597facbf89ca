"""`drr serve --upstream`: everything that a server does, with a Reasoner that another server runs.

Only the model's tokenizer, configuration and chat template are read here. vLLM's own front end renders, parses and
counts; each of its engine requests becomes one completion of the upstream's.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from drr.engine.upstream import probe
from drr.engine.upstream.abilities import Tier, UpstreamAbilities
from drr.engine.upstream.completions import check, within
from drr.engine.upstream.core import UpstreamCore, cores_made_by
from drr.engine.upstream.cost import Cost, Prices, Usage
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient
from drr.engine.vllm_probe import attempt_of
from drr.errors import InputError
from drr.judge.scorers.registry import READ_LOGPROBS
from server import metrics
from server.admission.under_way import App, Message, Receive, Send
from server.engine import ThinkingEngine
from server.errors import StartupError
from server.plan import PLAN_KEY, ResponsePlan
from server.vllm_api import (
    AsyncEngineArgs,
    GracefulHTTPError,
    RequestOutput,
    SamplingParams,
    UsageContext,
    VLLMValidationError,
)

_BETWEEN_LOOKS = 5.0
_LONGEST_LOOK = 10.0
"""Seconds between two looks at an upstream, and until one that is not answered says that it is away."""

_FRONT_END = {
    *("model", "tokenizer", "tokenizer_mode", "served_model_name", "trust_remote_code", "revision", "code_revision"),
    *("tokenizer_revision", "hf_config_path", "hf_overrides", "hf_token", "config_format", "max_model_len"),
    *("generation_config", "override_generation_config", "max_logprobs", "max_num_seqs", "enable_log_requests"),
    *("disable_log_stats", "stream_interval", "max_num_queued_reqs", "max_num_queued_tokens", "reasoning_parser"),
    *("structured_outputs_config", "enable_prompt_embeds", "otlp_traces_endpoint", "collect_detailed_traces"),
    *("allowed_local_media_path", "allowed_media_domains", "seed", "renderer_num_workers", "logprobs_mode"),
    *("reasoning_parser_plugin", "shutdown_timeout", "logging_config"),
}
"""vLLM's engine arguments that mean something without an engine; all others are about one that is not here."""


@dataclasses.dataclass(slots=True)
class Upstream:
    """An upstream that was found, and what it is known to allow."""

    client: UpstreamClient
    abilities: UpstreamAbilities
    prices: Prices | None


async def find_upstream(args: argparse.Namespace) -> Upstream:
    """Ask the upstream of `--upstream` what it allows. InputError or StartupError says why it cannot be used."""
    client = UpstreamClient(args.upstream, key=_key(args), timeout=args.upstream_timeout, note=_note)
    metrics.UPSTREAM_OPEN.set_function(lambda: client.open)
    try:
        card = await probe.choose_model(client, args.upstream_model)
        forced: Tier | None = args.upstream_tier
        found: UpstreamAbilities | None = None
        if forced in (None, "completions"):
            tokenizer = _tokenizer(args)
            found = await probe.completions(client, card, tokenizer, forced is not None)
        if found is None:
            found = UpstreamAbilities(
                forced or "opaque", str(card["id"]), str(card.get("owned_by") or ""), forced is not None
            )
    except UpstreamError as error:
        await client.aclose()
        raise StartupError(f"--upstream: {client.url}: {error}") from error
    except BaseException:
        await client.aclose()
        raise
    return Upstream(client, found, Prices.parse(args.upstream_price))


def _key(args: argparse.Namespace) -> str | None:
    if args.upstream_key_env is None:
        return None
    key = os.environ.get(args.upstream_key_env)
    if not key:
        raise InputError("--upstream-key-env", f"the environment has no {args.upstream_key_env}")
    return key


def _tokenizer(args: argparse.Namespace) -> Any:
    from drr.engine.open_reasoner import load_tokenizer

    name = args.tokenizer or args.model
    return None if name is None else load_tokenizer(name, "--model", trust_remote_code=args.trust_remote_code)


def prepare(args: argparse.Namespace, abilities: UpstreamAbilities, usual: Mapping[str, Any]) -> None:
    """Make vLLM's arguments those of a front end, before its configuration is made of them. InputError for options
    about an engine that is not here; `usual` are those of a server that is given none."""
    for one in dataclasses.fields(AsyncEngineArgs):
        value = getattr(args, one.name, None)
        if one.name not in _FRONT_END and value not in (usual.get(one.name), None, {}, []):
            name = one.name.replace("_", "-")
            raise InputError(f"--{name}", "has no effect: the model runs at --upstream, not here")
    if args.drr_scorer in READ_LOGPROBS and abilities.logprobs is None:
        raise InputError("--drr-scorer", f"{args.drr_scorer} reads log-probabilities, which the upstream does not tell")
    longest = abilities.max_model_len
    if longest is not None:
        if args.max_model_len is not None and args.max_model_len > longest:
            raise InputError("--max-model-len", f"is more than the upstream takes, which is {longest}")
        args.max_model_len = args.max_model_len or longest
    overrides = args.hf_overrides if isinstance(args.hf_overrides, dict) else {}
    args.hf_overrides = {**overrides, "quantization_config": None}  # of weights that nobody loads here
    args.served_model_name = args.served_model_name or [abilities.model]


def start_engine(args: argparse.Namespace, upstream: Upstream) -> "UpstreamEngine":
    """The engine in front of this upstream. No other engine may be started meanwhile."""
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    core = UpstreamCore(upstream.client, upstream.abilities, None, [])
    with cores_made_by(lambda _: core):
        engine = UpstreamEngine.from_vllm_config(
            vllm_config=config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            enable_log_requests=engine_args.enable_log_requests,
            disable_log_stats=engine_args.disable_log_stats,
        )
    assert isinstance(engine, UpstreamEngine)
    engine.attach(core, upstream)
    return engine


class UpstreamEngine(ThinkingEngine):
    """ThinkingEngine whose requests an upstream answers."""

    upstream: Upstream
    core: UpstreamCore

    def attach(self, core: UpstreamCore, upstream: Upstream) -> None:
        """Take up this upstream, once."""
        self.upstream, self.core = upstream, core
        self._costs: dict[str, Cost] = {}
        self._sampled_as_ever = dict(self.model_config.get_diff_sampling_param())
        tokenizer = self.renderer.tokenizer
        ends = self.model_config.try_get_generation_config().get("eos_token_id") or []
        ends = [ends] if isinstance(ends, int) else list(ends)
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        core.tokenizer, core.stop_ids = tokenizer, list(dict.fromkeys([*own, *ends]))
        core.failed, core.billed = self._failed, self._billed

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        check(sampling_params, self.upstream.abilities, self._sampled_as_ever)
        plan = (sampling_params.extra_args or {}).get(PLAN_KEY)
        if self.upstream.abilities.logprobs is None and plan is not None and plan.settings.judge in READ_LOGPROBS:
            told = f"drr.scorer: {plan.settings.judge} reads log-probabilities, which the upstream does not tell"
            raise VLLMValidationError(told, parameter="drr.scorer")
        if options.get("lora_request") is not None:
            raise VLLMValidationError("model: adapters are not served through an upstream", parameter="model")
        if not isinstance(prompt, Mapping) or prompt.get("type") != "token":
            raise VLLMValidationError("messages: only text is sent to an upstream", parameter="messages")
        return super().generate(prompt, sampling_params, request_id, **options)

    def _raw(
        self, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        return super()._raw(prompt, within(params, self.upstream.abilities), request_id, **options)

    async def _think(
        self,
        plan: ResponsePlan,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        cost = self._costs[request_id] = Cost()
        plan.account.cost = lambda: cost.to_json(self.upstream.prices)
        try:
            async with contextlib.aclosing(super()._think(plan, prompt, params, request_id, options)) as outputs:
                async for output in outputs:
                    yield output
        finally:
            self._costs.pop(request_id, None)

    def _billed(self, request_id: str, usage: Usage, estimated: bool) -> None:
        metrics.observe_upstream_tokens(usage.prompt, usage.cached or 0, usage.completion)
        attempt = attempt_of(request_id)
        for name in (request_id, attempt, attempt.rpartition("-")[0]):
            cost = self._costs.get(name)
            if cost is not None:
                cost.add(usage, estimated=estimated)
                return

    def _failed(self, request_id: str, error: UpstreamError) -> None:
        """End the client's request that this one is a part of."""
        state = self.output_processor.request_states.get(request_id)
        if state is None or state.queue is None:
            return
        queue, parent = state.queue, state.parent_req
        whole = request_id if parent is None else parent.request_id
        others = self.output_processor.abort_requests([whole], internal=True)
        queue.put(as_http(error))
        task = asyncio.get_running_loop().create_task(
            self.core.abort_requests_async([other for other in others if other != request_id])
        )
        task.add_done_callback(lambda _: None)


def as_http(error: UpstreamError) -> Any:
    """The error as vLLM's handlers tell it to a client. What the client sent is its own fault (400); a key or an
    address that the upstream does not take is the operator's (502)."""
    if error.kind == "refused" and error.status in (400, 413, 422):
        return VLLMValidationError(str(error), parameter=error.param)
    status = {
        "busy": HTTPStatus.TOO_MANY_REQUESTS,
        "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
        "timeout": HTTPStatus.GATEWAY_TIMEOUT,
    }.get(error.kind, HTTPStatus.BAD_GATEWAY)
    return GracefulHTTPError(str(error), status)


class UpstreamPulse:
    """Whether the upstream answers: asked again and again. While it is away nobody waits for it to come back."""

    def __init__(self, client: UpstreamClient, between: float = _BETWEEN_LOOKS, longest: float = _LONGEST_LOOK) -> None:
        self._client, self._between, self._longest = client, between, longest
        self._patience = client.patience
        self.state = "ok"

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Ask while the block runs."""
        task = asyncio.create_task(self.beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def beat(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._between)

    async def look(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(self._longest):
                await self._client.get("models", patience=0.0)
            self.state = "ok"
        except TimeoutError:
            self.state = "away"
        except UpstreamError as error:
            self.state = "away" if error.kind in ("unavailable", "timeout", "cut") else "ok"
        self._client.patience = self._patience if self.state == "ok" else 0.0


@contextlib.asynccontextmanager
async def looking(engine: ThinkingEngine, pulses: dict[str, Any]) -> AsyncIterator[None]:
    """An upstream's pulse stands in `pulses` for the Reasoner's, and is taken while the block runs; nothing happens for
    an engine of this machine's."""
    if not isinstance(engine, UpstreamEngine):
        yield
        return
    pulse = pulses["reasoner"] = UpstreamPulse(engine.upstream.client)
    async with pulse.beating():
        yield


class ComeAgain:
    """ASGI middleware: whoever is told that an upstream is busy or away is told when to come again."""

    def __init__(self, app: App, seconds: float = _BETWEEN_LOOKS) -> None:
        self._app, self._after = app, str(int(seconds)).encode()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (429, 503):
                headers = list(message["headers"])
                if not any(name.lower() == b"retry-after" for name, _ in headers):
                    message = {**message, "headers": [*headers, (b"retry-after", self._after)]}
            await send(message)

        await self._app(scope, receive, told)


def _note(outcome: str) -> None:
    metrics.UPSTREAM_REQUESTS.labels(outcome).inc()
