"""Start a server: the DM's engine, the Reasoner's engine, vLLM's app above them, DRR in between.

Every vLLM flag passes through; the flags of DRR itself are few and start with --dm or --drr.
"""

import argparse
import asyncio
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from huggingface_hub import snapshot_download
from starlette.routing import Route
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.launcher import serve_http, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from drr.calibration import Calibration
from drr.dm import DEFAULT_NUDGE_CUE, DmCard, DmMismatchError, fingerprint
from drr.drift import DriftWatch
from drr.engines import (
    engine_on,
    give_way,
    on_cpu,
    parse_cpus,
    prepare_environment,
)
from drr.open_dm import start_dm
from drr.open_prm import start_prm
from drr.open_reasoner import thinking_format
from drr.reasoner import injected
from drr.remote_dm import RemoteClassifier, remote_dm
from drr.replay import Rule
from drr.rethink import RETHINK_CUE
from drr.scorer_card import ScorerCard, load_cards
from drr.scorers.dm import DmScorer
from drr.scorers.process_reward import ProcessRewardScorer
from drr.scorers.registry import training_free
from drr.steps import StepRule
from server import metrics
from server.arguments import parse_args
from server.engine import DrrRuntime, ThinkingEngine
from server.schema import Defaults, Insertions
from server.serving import DrrServingChat, RefuseHeaderElsewhere, list_aliases, refuse_drr

logger = logging.getLogger("drr")

_MIDDLEWARE = f"{RefuseHeaderElsewhere.__module__}.{RefuseHeaderElsewhere.__name__}"
_OTHER_HANDLERS = (
    "openai_serving_completion",
    "openai_serving_responses",
    "openai_serving_chat_batch",
    "anthropic_serving_messages",
)
_SEPARATOR = "\n\n[this attempt was rejected; here is another]\n\n"
_REFUSAL = "\n\nI am not sure enough of any answer to give one."
_TEMPERATURE = 0.8
"""Of attempts after a greedy one, where the model recommends none."""

_FALLBACK_PARSER = "deepseek_r1"
"""For models that mark thinking with <think> and </think> and were started without a reasoning parser."""


class StartupError(Exception):
    """The server cannot start as asked; the message is for the operator."""


@dataclass(slots=True)
class Dm:
    """A DM that is running: its card and scorer, and its engine where that is here."""

    card: DmCard
    scorer: DmScorer
    engine: AsyncLLM | None = None
    remote: RemoteClassifier | None = None

    @property
    def dead(self) -> bool:
        """Whether its engine is gone for good."""
        return self.scorer.dead or (self.engine is not None and self.engine.errored)


@dataclass(slots=True)
class Models:
    """What has been started."""

    reasoner: ThinkingEngine | None = None
    dm: Dm | None = None
    prm: tuple[AsyncLLM, ProcessRewardScorer] | None = None

    async def shutdown(self) -> None:
        """End all of it."""
        if self.reasoner is not None:
            self.reasoner.shutdown()
        if self.dm is not None and self.dm.engine is not None:
            self.dm.engine.shutdown()
        if self.dm is not None and self.dm.remote is not None:
            await self.dm.remote.aclose()
        if self.prm is not None:
            self.prm[0].shutdown()


async def serve(args: argparse.Namespace, engine_class: type[ThinkingEngine] = ThinkingEngine) -> None:
    """Serve until SIGINT or SIGTERM."""
    rule = StepRule.parse(args.drr_step_rule)
    card = _dm_card(args, rule)
    if args.drr_calibration:
        load_cards(Path(args.drr_calibration))  # before minutes are spent on starting engines
    listen_address, sock = setup_server(args, reuse_port=False)
    models = Models()
    try:
        await _start(models, card, args, engine_class)
        assert models.reasoner is not None
        if models.dm is not None:
            _check_downloaded(models.dm.card, models.reasoner, args, rule)
        app = await build(args, models.reasoner, models.dm, rule, models.prm[1] if models.prm is not None else None)
        print(_invitation(args, listen_address, models.dm), flush=True)
        shutdown = await _serve_http(app, args, sock)
        await shutdown
    finally:
        await models.shutdown()
        sock.close()


async def _start(
    models: Models, card: DmCard | None, args: argparse.Namespace, engine_class: type[ThinkingEngine]
) -> None:
    """Start every model that is asked for: side by side where that is safe, else the judges first, which take a share
    of the memory, and then the Reasoner, which takes what is left."""
    cpus = {
        option: None if text is None else parse_cpus(option, text)
        for option, text in (("--dm-cpus", args.dm_cpus), ("--drr-reasoner-cpus", args.drr_reasoner_cpus))
    }

    def start_judge() -> None:
        assert card is not None
        with engine_on(cpus["--dm-cpus"]):
            models.dm = _start_dm(card, args)

    def start_process_reward() -> None:
        models.prm = start_prm(args.prm, args.prm_gpu_memory_utilization)

    def start_reasoner() -> None:
        with engine_on(cpus["--drr-reasoner-cpus"]):
            models.reasoner = _start_reasoner(args, engine_class)

    starts = [start_judge] if card is not None else []
    starts += [start_process_reward] if args.prm else []
    starts.append(start_reasoner)
    if on_cpu() and not any(cpus.values()):  # on a GPU engines measure free memory; cores are given by environment
        await _side_by_side(starts)
    else:
        for start in starts:
            start()


async def _side_by_side(starts: Sequence[Callable[[], None]]) -> None:
    """Run all of them at once, each begun when the engine process of the one before is there; the first error is
    raised when all have ended."""
    tasks = []
    for start in starts:
        before = len(multiprocessing.active_children())
        tasks.append(asyncio.create_task(asyncio.to_thread(start)))
        while len(multiprocessing.active_children()) == before and not tasks[-1].done():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for failed in await asyncio.gather(*tasks, return_exceptions=True):
        if failed is not None:
            raise failed


async def build(
    args: argparse.Namespace,
    engine: ThinkingEngine,
    dm: Dm | None,
    rule: StepRule,
    prm: ProcessRewardScorer | None = None,
) -> FastAPI:
    """vLLM's app over `engine`, with DRR's handler, health and model list in it."""
    engine.drr = _runtime(args, engine, dm, rule, prm)
    tasks = await engine.get_supported_tasks()
    args.middleware = [*args.middleware, _MIDDLEWARE]
    app: FastAPI = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    app.state.openai_serving_chat = DrrServingChat.adopt(app.state.openai_serving_chat, engine.drr)
    for name in _OTHER_HANDLERS:
        handler = getattr(app.state, name, None)
        if handler is not None:
            refuse_drr(handler)
    list_aliases(app.state.openai_serving_models, ["drr", "full"] if dm is not None else ["full"])
    app.router.routes.insert(0, Route("/health", _health(engine, dm, prm), methods=["GET"]))
    if dm is not None:
        metrics.DM_UP.set(1)
    return app


def _start_dm(card: DmCard, args: argparse.Namespace) -> Dm:
    if args.dm_url:
        remote, scorer = remote_dm(card, Path(args.dm), args.dm_url)
        return Dm(card, scorer, remote=remote)

    def on_death(error: BaseException) -> None:
        metrics.DM_UP.set(0)
        logger.error("The DM's engine is gone; requests go on without it, thinking in full. %s", error)

    engine, scorer = start_dm(
        card,
        Path(args.dm),
        gpu_share=args.dm_gpu_memory_utilization,
        kv_cache_bytes=args.dm_kv_cache_memory_bytes,
        on_death=on_death,
        on_tokens=metrics.observe_dm_tokens,
    )
    if args.dm_nice:
        give_way(engine, args.dm_nice)
    return Dm(card, scorer, engine)


def _start_reasoner(args: argparse.Namespace, engine_class: type[ThinkingEngine]) -> ThinkingEngine:
    if (args.dm or args.prm or args.drr_scorer) and not args.structured_outputs_config.reasoning_parser:
        args.reasoning_parser = args.structured_outputs_config.reasoning_parser = _FALLBACK_PARSER
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    engine = engine_class.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
    )
    assert isinstance(engine, engine_class)
    return engine


def _dm_card(args: argparse.Namespace, rule: StepRule) -> DmCard | None:
    """The DM's card, checked against a Reasoner that is a folder before anything is started."""
    if not args.dm:
        return None
    card = DmCard.load(Path(args.dm))
    if Path(args.model).is_dir():
        _check_dm(card, Path(args.model), rule, args.dm_allow_mismatch)
    return card


def _check_downloaded(card: DmCard, engine: AsyncLLM, args: argparse.Namespace, rule: StepRule) -> None:
    """Check a DM against a Reasoner named by a hub's id, whose weights are here only once its engine has started."""
    if not Path(args.model).is_dir():
        _check_dm(card, _weights(args, engine), rule, args.dm_allow_mismatch)


def _weights(args: argparse.Namespace, engine: AsyncLLM) -> Path:
    """The folder of a started Reasoner's weights."""
    if Path(args.model).is_dir():
        return Path(args.model)
    config = engine.model_config
    return Path(snapshot_download(config.model, revision=config.revision, local_files_only=True))


def _check_dm(card: DmCard, reasoner: Path, rule: StepRule, allow_mismatch: bool) -> None:
    try:
        card.check(fingerprint(reasoner), rule)
    except DmMismatchError as error:
        if not allow_mismatch:
            raise StartupError(f"{error}; --dm-allow-mismatch serves it all the same") from error
        logger.warning("%s; served all the same, as asked", error)


def _scorer_cards(args: argparse.Namespace, engine: AsyncLLM, rule: StepRule) -> list[ScorerCard]:
    """The calibrated scorers that were asked for; InputError where one is of another Reasoner or other steps."""
    if not args.drr_calibration:
        return []
    cards, reasoner = load_cards(Path(args.drr_calibration)), fingerprint(_weights(args, engine))
    for card in cards:
        card.check("--drr-calibration", reasoner, str(rule), args.prm)
    return cards


def _runtime(
    args: argparse.Namespace, engine: AsyncLLM, dm: Dm | None, rule: StepRule, prm: ProcessRewardScorer | None
) -> DrrRuntime:
    tokenizer = engine.renderer.tokenizer
    parser = args.structured_outputs_config.reasoning_parser
    form = thinking_format(tokenizer, parser)
    if form is None and (dm is not None or prm is not None or args.drr_scorer):
        raise StartupError(f"reasoning parser {parser} does not say how thinking is marked: no judge can stop it")
    card = dm.card if dm is not None else None
    calibration = None
    rule_now = Rule(card.threshold, card.patience) if card is not None else None
    if card is not None and card.calibration is not None:
        calibration = Calibration.from_json(card.calibration)
        rule_now = calibration.rules["default"]
    cue = card.nudge_cue if card is not None else DEFAULT_NUDGE_CUE
    defaults = Defaults(
        mode=args.drr_mode or ("auto" if dm is not None or args.drr_scorer else "off"),
        rule=rule_now,
        calibration=calibration,
        calibrations={own.scorer: Calibration.from_json(own.calibration) for own in _scorer_cards(args, engine, rule)},
        nudge=card.nudge if card is not None else 0,
        nudge_below=card.nudge_below if card is not None else 0.5,
        nudge_cue=cue,
        nudge_cue_ids=tuple(tokenizer.encode(cue, add_special_tokens=False)),
        scorer=args.drr_scorer or ("dm" if dm is not None else None),
        insertions=Insertions(
            *(
                injected(tokenizer.encode(text, add_special_tokens=False), text)
                for text in (RETHINK_CUE, _SEPARATOR, _REFUSAL)
            )
        ),
        rethink_temperature=_sampling_temperature(engine),
        answer_tokens=args.drr_answer_tokens,
        deadline=args.dm_deadline_ms / 1000,
        can_stop=form is not None,
        has_prm=prm is not None,
    )
    drift = DriftWatch(calibration.drift) if calibration is not None else None
    scorers = training_free()
    if dm is not None:
        scorers["dm"] = dm.scorer
    if prm is not None:
        scorers["prm"] = prm
    return DrrRuntime(form, rule, scorers, defaults, drift)


def _sampling_temperature(engine: AsyncLLM) -> float:
    """The temperature that the model's makers recommend, else 0.8."""
    temperature = engine.model_config.get_diff_sampling_param().get("temperature")
    return float(temperature) if temperature else _TEMPERATURE


def _health(engine: AsyncLLM, dm: Dm | None, prm: ProcessRewardScorer | None) -> Any:
    async def health(request: Request) -> JSONResponse:
        """200 while answers can be given; `degraded` tells that the DM is gone and thinking runs in full."""
        try:
            await engine.check_health()
            reasoner = "ok"
        except EngineDeadError:
            reasoner = "dead"
        judges = {"dm": "none" if dm is None else "dead" if dm.dead else "ok"}
        if prm is not None:
            judges["prm"] = "dead" if prm.dead else "ok"
        status = "dead" if reasoner == "dead" else "degraded" if "dead" in judges.values() else "ok"
        body = {"status": status, "reasoner": reasoner, **judges}
        return JSONResponse(body, status_code=503 if reasoner == "dead" else 200)

    return health


async def _serve_http(app: FastAPI, args: argparse.Namespace, sock: Any) -> Any:
    log_config = get_uvicorn_log_config(args)
    extra = {} if log_config is None else {"log_config": log_config}
    return await serve_http(
        app,
        sock=sock,
        enable_ssl_refresh=args.enable_ssl_refresh,
        host=args.host,
        port=args.port,
        log_level=args.uvicorn_log_level,
        access_log=not args.disable_uvicorn_access_log,
        timeout_keep_alive=5,
        ssl_keyfile=args.ssl_keyfile,
        ssl_certfile=args.ssl_certfile,
        ssl_ca_certs=args.ssl_ca_certs,
        ssl_cert_reqs=args.ssl_cert_reqs,
        ssl_ciphers=args.ssl_ciphers,
        h11_max_incomplete_event_size=args.h11_max_incomplete_event_size,
        h11_max_header_count=args.h11_max_header_count,
        **extra,
    )


def _invitation(args: argparse.Namespace, address: str, dm: Dm | None) -> str:
    name = args.served_model_name[0] if args.served_model_name else args.model
    judge = "without a DM: plain vLLM, unless the drr object asks for a budget or a scorer"
    if args.drr_scorer:
        judge = f"judged by {args.drr_scorer}"
    elif dm is not None:
        judge = f"judged by {dm.card.id}"
    url = address.replace("0.0.0.0", "127.0.0.1")
    body = (
        f'{{"model": "{name}", "messages": [{{"role": "user", "content": '
        '"Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?"}]}'
    )
    return (
        f"\nServing {name}, {judge}, at {url}/v1. Try:\n\n"
        f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n"
    )


def main(argv: Sequence[str], engine_class: type[ThinkingEngine] = ThinkingEngine) -> int:
    """Entry point of `drr serve`; returns the exit status."""
    import uvloop

    prepare_environment()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    args = parse_args(argv)

    def stop_before_serving(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop_before_serving)
    try:
        uvloop.run(serve(args, engine_class))
    except KeyboardInterrupt:
        return 0
    except (StartupError, ValueError) as error:
        print(f"drr serve: {error}", file=sys.stderr)
        return 1
    return 0
