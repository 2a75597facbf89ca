"""Start a server: the DM's engine, the Reasoner's engine, vLLM's app above them, DRR in between.

Every vLLM flag passes through; the flags of DRR itself are few and start with --dm or --drr.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from huggingface_hub import snapshot_download
from starlette.routing import Route
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import serve_http, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from drr import reference
from drr.calibration import Calibration
from drr.dm import DEFAULT_NUDGE_CUE, DmCard, DmMismatchError, fingerprint
from drr.drift import DriftWatch
from drr.engines import DM_GPU_SHARE, PRM_GPU_SHARE, cpu_engine_defaults, on_cpu, prepare_environment
from drr.open_dm import start_dm
from drr.open_prm import start_prm
from drr.open_reasoner import thinking_format
from drr.reasoner import injected
from drr.replay import Rule
from drr.rethink import RETHINK_CUE
from drr.scorer_card import ScorerCard, load_cards
from drr.scorers.dm import DmScorer
from drr.scorers.process_reward import ProcessRewardScorer
from drr.scorers.registry import ScorerName, training_free
from drr.steps import StepRule
from server import metrics
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
    """A DM that is running: its card, engine and scorer."""

    card: DmCard
    engine: AsyncLLM
    scorer: DmScorer


def make_parser() -> FlexibleArgumentParser:
    """vLLM's own server flags and DRR's."""
    parser = make_arg_parser(FlexibleArgumentParser(prog="drr serve", description=__doc__))
    group = parser.add_argument_group("DRR")
    group.add_argument("--dm", metavar="FOLDER", help="the DM that judges this Reasoner's thinking")
    group.add_argument("--dm-allow-mismatch", action="store_true", help="serve a DM made for another Reasoner")
    group.add_argument("--dm-deadline-ms", type=float, default=1000.0, help="a later verdict counts as: continue")
    group.add_argument("--dm-kv-cache-memory-bytes", type=int, help="KV cache of the DM's engine")
    group.add_argument(
        "--dm-gpu-memory-utilization", type=float, default=DM_GPU_SHARE, help="share of the GPU for the DM"
    )
    group.add_argument("--prm", metavar="MODEL", help="a process reward model: folder or Hugging Face id; scorer prm")
    group.add_argument(
        "--prm-gpu-memory-utilization", type=float, default=PRM_GPU_SHARE, help="share of the GPU for it"
    )
    group.add_argument("--drr-mode", choices=("auto", "off", "shadow"), help="mode of requests that name none")
    group.add_argument(
        "--drr-scorer", choices=get_args(ScorerName), help="who judges where a request does not say; default: the DM"
    )
    group.add_argument(
        "--drr-calibration", metavar="FOLDER", help="what drr calibrate --scorer made: certified rules of such scorers"
    )
    group.add_argument(
        "--drr-step-rule", default="blank_line", help="blank_line, line, sentence, marker, tokens:N, attempt"
    )
    group.add_argument("--drr-answer-tokens", type=int, default=256, help="tokens kept free for the answer")
    return parser


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The server's arguments. Without --model the reference Reasoner and its DM are served."""
    parser = make_parser()
    parser.set_defaults(**cpu_engine_defaults(), model=None)
    args: argparse.Namespace = parser.parse_args(list(argv))
    args.model = args.model or args.model_tag
    if args.model is None:
        args.model = str(reference.reasoner_folder())
        args.dm = args.dm or str(reference.dm_folder())
        args.served_model_name = args.served_model_name or [reference.MODEL_NAME]
    if args.drr_mode in ("auto", "shadow") and not args.dm and not args.drr_scorer:
        parser.error(f"--drr-mode {args.drr_mode} needs --dm or --drr-scorer")
    if args.drr_scorer == "dm" and not args.dm:
        parser.error("--drr-scorer dm needs --dm")
    if args.drr_scorer == "prm" and not args.prm:
        parser.error("--drr-scorer prm needs --prm")
    if args.dm_deadline_ms <= 0 or args.drr_answer_tokens < 1:
        parser.error("--dm-deadline-ms and --drr-answer-tokens must be positive")
    if not on_cpu() and args.gpu_memory_utilization == parser.get_default("gpu_memory_utilization"):
        # The judges' shares come out of the Reasoner's.
        args.gpu_memory_utilization -= args.dm_gpu_memory_utilization if args.dm else 0.0
        args.gpu_memory_utilization -= args.prm_gpu_memory_utilization if args.prm else 0.0
    validate_parsed_serve_args(args)
    return args


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    rule = StepRule.parse(args.drr_step_rule)
    card = _dm_card(args, rule)
    if args.drr_calibration:
        load_cards(Path(args.drr_calibration))  # before minutes are spent on starting engines
    listen_address, sock = setup_server(args, reuse_port=False)
    dm: Dm | None = None
    prm: tuple[AsyncLLM, ProcessRewardScorer] | None = None
    engine: ThinkingEngine | None = None
    try:
        if card is not None:
            dm = _start_dm(card, args)
        if args.prm:
            prm = start_prm(args.prm, args.prm_gpu_memory_utilization)
        engine = _start_reasoner(args)
        if dm is not None:
            _check_downloaded(dm.card, engine, args, rule)
        app = await build(args, engine, dm, rule, prm[1] if prm is not None else None)
        print(_invitation(args, listen_address, dm), flush=True)
        shutdown = await _serve_http(app, args, sock)
        await shutdown
    finally:
        if engine is not None:
            engine.shutdown()
        if dm is not None:
            dm.engine.shutdown()
        if prm is not None:
            prm[0].shutdown()
        sock.close()


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
    def on_death(error: BaseException) -> None:
        metrics.DM_UP.set(0)
        logger.error("The DM's engine is gone; requests go on without it, thinking in full. %s", error)

    engine, scorer = start_dm(
        card,
        Path(args.dm),
        gpu_share=args.dm_gpu_memory_utilization,
        kv_cache_bytes=args.dm_kv_cache_memory_bytes,
        on_death=on_death,
    )
    return Dm(card, engine, scorer)


def _start_reasoner(args: argparse.Namespace) -> ThinkingEngine:
    if (args.dm or args.prm or args.drr_scorer) and not args.structured_outputs_config.reasoning_parser:
        args.reasoning_parser = args.structured_outputs_config.reasoning_parser = _FALLBACK_PARSER
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    engine = ThinkingEngine.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
    )
    assert isinstance(engine, ThinkingEngine)
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
        judges = {"dm": "none" if dm is None else "dead" if dm.scorer.dead or dm.engine.errored else "ok"}
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


def main(argv: Sequence[str]) -> int:
    """Entry point of `drr serve`; returns the exit status."""
    import uvloop

    prepare_environment()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    args = parse_args(argv)

    def stop_before_serving(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop_before_serving)
    try:
        uvloop.run(serve(args))
    except KeyboardInterrupt:
        return 0
    except (StartupError, ValueError) as error:
        print(f"drr serve: {error}", file=sys.stderr)
        return 1
    return 0
