"""vLLM's app with DRR in it: the chat handler, the routes, and what the loop needs beside a request."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware import Middleware

from drr.engine.formats import tool_openers
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import fingerprint
from drr.judge.drift import WINDOW, DriftWatch
from drr.judge.scorer_card import ScorerCard, load_cards
from drr.judge.scorers.registry import training_free
from drr.loop.formats import PlainChain, ReasoningFormat
from drr.loop.reasoner import injected
from drr.loop.rethink import RETHINK_CUE
from drr.loop.scoring import Scorer
from drr.loop.steps import StepRule
from server import metrics
from server.abilities import abilities
from server.admission.middleware import Admission
from server.admission.wide_bodies import WideBodies
from server.anthropic_errors import AnthropicErrors
from server.arguments import usual_options
from server.canary_setup import canaries_of
from server.chat import DrrChat
from server.early_failures import EarlyFailures
from server.efforts import read_efforts
from server.engines import Models
from server.health import Pulse
from server.judges import weights_of
from server.keys import EFFORTS
from server.lifecycle import Lifecycle
from server.messages import DrrMessages
from server.middleware import GuardOptions
from server.openapi import describe
from server.planning import Planner
from server.playground.files import playground_routes
from server.promise import Surroundings, changed_options
from server.refusals import Refusal, bad_request, unavailable
from server.responses import DrrResponses
from server.routes import own_routes
from server.runtime import DrrRuntime
from server.settings import Defaults, DmDefaults
from server.upstream import ComeAgain, UpstreamEngine
from server.vllm_api import AsyncLLM, EngineDeadError, build_app, init_app_state

_ANSWER, _CUED_ANSWER = 256, 64
"""Tokens kept free for an answer, and for one that an answer cue has begun."""

_TEMPERATURE = 0.8
"""Of attempts after a greedy one, where the model recommends none."""


async def make_app(
    args: argparse.Namespace,
    models: Models,
    form: ReasoningFormat | None,
    rule: StepRule,
    lifecycle: Lifecycle,
    pulses: Mapping[str, Pulse],
) -> FastAPI:
    """vLLM's app over the Reasoner's engine, behind DRR's door, with DRR's handler, health, version and model list in
    it."""
    engine = models.reasoner
    assert engine is not None
    dm, prm = (models.dms[0] if models.dms else None), (models.prm[1] if models.prm is not None else None)
    runtime = engine.drr = _runtime(args, engine, models, form, rule)
    runtime.canaries = canaries_of(args, runtime, models.dms, lifecycle.door)
    if args.otlp_traces_endpoint is not None:
        from server.tracing import Tracing

        engine.tracing = Tracing((args.served_model_name or [args.model])[0])
    tasks = await engine.get_supported_tasks()
    app: FastAPI = build_app(args, tasks, engine.model_config)
    # Innermost, so that refusals get CORS headers. vLLM has built the stack already.
    app.user_middleware += [
        Middleware(Admission, door=lifecycle.door),
        Middleware(EarlyFailures),
        Middleware(WideBodies, most=args.drr_max_messages),
        Middleware(AnthropicErrors),
        Middleware(GuardOptions),
    ]
    if isinstance(engine, UpstreamEngine):
        app.user_middleware.insert(0, Middleware(ComeAgain))
    app.exception_handlers[EngineDeadError] = _engine_died
    app.exception_handlers[RecursionError] = _too_deep
    app.exception_handlers[NotImplementedError] = _not_served
    app.middleware_stack = app.build_middleware_stack()
    await init_app_state(engine, app.state, args, tasks)
    carry = engine.vllm_config.speculative_config is None  # vLLM refuses the bias that would carry them
    think_at_every_endpoint(args, app.state, runtime, penalties_carry=carry)
    describe(app)
    aliases = ["drr", "full"] if runtime.defaults.rule is not None or runtime.defaults.scorer is not None else ["full"]
    told = abilities(runtime)
    if isinstance(engine, UpstreamEngine):
        told["upstream"] = engine.upstream.abilities.as_dict()
    app.router.routes[:0] = own_routes(
        engine, app.state.openai_serving_models, dm, prm, aliases, lifecycle, pulses, told
    )
    if not args.drr_no_playground:
        app.router.routes[:0] = playground_routes()
    if dm is not None:
        metrics.DM_UP.set(1)
    for name in (*pulses, *(["dm"] if dm is not None and dm.engine is not None else [])):
        metrics.ENGINE_UP.labels(name).set_function(lambda name=name: float(pulses[name].state == "ok"))  # type: ignore[misc]
    return app


def think_at_every_endpoint(
    args: argparse.Namespace, state: Any, runtime: DrrRuntime, *, penalties_carry: bool
) -> None:
    """Put DRR into vLLM's handlers. InputError for an effort that no request of this server could make."""
    efforts, tool_parser = read_efforts(args.drr_effort_map), args.tool_call_parser
    efforts.check(runtime.defaults)
    trusts = args.trust_request_chat_template
    responses, messages = state.openai_serving_responses, state.anthropic_serving_messages
    state.openai_serving_chat = DrrChat(
        state.openai_serving_chat,
        runtime,
        efforts=efforts,
        tool_parser=tool_parser,
        penalties_carry=penalties_carry,
        trusts_templates=trusts,
        reasoning_key=args.drr_reasoning_key,
    )
    state.openai_serving_responses = DrrResponses.of(
        responses,
        Planner(responses, runtime, efforts, penalties_carry=penalties_carry, trusts_templates=trusts),
        tool_parser=tool_parser,
    )
    state.anthropic_serving_messages = DrrMessages.of(
        messages,
        Planner(messages, runtime, efforts, penalties_carry=penalties_carry, trusts_templates=trusts),
        tool_parser=tool_parser,
        disabled_effort=args.anthropic_disabled_thinking_effort,
    )


async def _engine_died(request: Request, error: Exception) -> JSONResponse:
    """What is said to whoever was being answered when the Reasoner's engine died."""
    return unavailable("The Reasoner's engine has died; the server is going down.").response(request.url.path)


async def _not_served(request: Request, error: Exception) -> JSONResponse:
    """What is said of an endpoint that this model does not have. vLLM's 501 would have clients try again."""
    told = str(error) or "The model does not support this endpoint."
    return Refusal(404, told, kind="NotFoundError", code=404).response(request.url.path)


async def _too_deep(request: Request, error: Exception) -> JSONResponse:
    """What is said to whoever sent JSON that is nested deeper than it can be read, on paths that read it themselves."""
    if "decoding a JSON" not in str(error):
        raise error
    return bad_request("body", "is nested too deeply").response(request.url.path)


def _runtime(
    args: argparse.Namespace, engine: AsyncLLM, models: Models, form: ReasoningFormat | None, rule: StepRule
) -> DrrRuntime:
    tokenizer = engine.renderer.tokenizer
    card = models.dms[0].card if models.dms else None

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    own = DmDefaults.of(card, encode)
    defaults = Defaults(
        mode=args.drr_mode or ("auto" if card is not None or args.drr_scorer else "off"),
        rule=own.rule,
        calibration=own.calibration,
        beside={dm.name: DmDefaults.of(dm.card, encode) for dm in models.dms[1:]},
        calibrations={
            card.scorer: Calibration.from_json(card.calibration) for card in _scorer_cards(args, engine, rule)
        },
        nudge=own.nudge,
        nudge_below=own.nudge_below,
        nudge_cue=own.nudge_cue,
        nudge_cue_ids=own.nudge_cue_ids,
        scorer=args.drr_scorer or ("dm" if card is not None else None),
        rethink_cue=injected(encode(RETHINK_CUE), RETHINK_CUE),
        separator=args.drr_separator,
        refusal=args.drr_refusal,
        rethink_temperature=_sampling_temperature(engine),
        answer_tokens=args.drr_answer_tokens or (_CUED_ANSWER if isinstance(form, PlainChain) else _ANSWER),
        deadline=args.dm_deadline_ms / 1000,
        thinking_in="content" if isinstance(form, PlainChain) else "reasoning",
        can_stop=form is not None,
        has_prm=models.prm is not None,
    )
    drift = DriftWatch(own.calibration.drift, WINDOW) if own.calibration is not None else None
    scorers: dict[str, Scorer] = training_free()
    for dm in models.dms:
        scorers[f"dm:{dm.name}" if dm.name else "dm"] = dm.scorer
    if models.prm is not None:
        scorers["prm"] = models.prm[1]
    around, tools = _surroundings(args, engine), tool_openers(tokenizer)
    return DrrRuntime(form, rule, scorers, defaults, drift, tools, around, models.state_ids)


def _surroundings(args: argparse.Namespace, engine: AsyncLLM) -> Surroundings:
    usual = usual_options()
    return Surroundings(
        sampling=engine.model_config.get_diff_sampling_param(),
        template_reads_effort=_template_reads_effort(engine.renderer.tokenizer),
        changed=tuple(changed_options(args, usual)),
        dtype=None if args.dtype == usual.get("dtype") else args.dtype,
    )


def _template_reads_effort(tokenizer: Any) -> bool:
    """Whether a `reasoning_effort` changes the prompt of a question."""
    question = [{"role": "user", "content": "1 + 1?"}]
    try:
        prompts = {
            tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False, **effort)
            for effort in (
                {},
                *({"reasoning_effort": name, "enable_thinking": True} for name in EFFORTS if name != "none"),
            )
        }
    except Exception:  # templates are programs: one that cannot be tried is not known to leave the prompt alone
        return True
    return len(prompts) > 1


def _scorer_cards(args: argparse.Namespace, engine: AsyncLLM, rule: StepRule) -> list[ScorerCard]:
    """The calibrated scorers that were asked for; InputError where one is of another Reasoner or other steps."""
    if not args.drr_calibration:
        return []
    cards, reasoner = load_cards(Path(args.drr_calibration)), fingerprint(weights_of(args, engine))
    for card in cards:
        card.check("--drr-calibration", reasoner, str(rule), args.prm)
    return cards


def _sampling_temperature(engine: AsyncLLM) -> float:
    """The temperature that the model's makers recommend, else 0.8."""
    temperature = engine.model_config.get_diff_sampling_param().get("temperature")
    return float(temperature) if temperature else _TEMPERATURE
