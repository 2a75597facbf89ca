"""Start a server: the DM's engine, the Reasoner's engine, vLLM's app above them, DRR in between."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI

from drr import reference
from drr.engine.children import kill_engines, own_engines
from drr.engine.defaults import DEFAULT_ANSWER_CUE
from drr.engine.devices import prepare_environment
from drr.engine.formats import UnmarkedThinkingError, choose_format, load_parser_plugin
from drr.engine.lasting_streams import outlast_full_disks
from drr.engine.open_reasoner import load_tokenizer
from drr.engine.starting import StartLog, cause_of
from drr.errors import InputError, without_passwords
from drr.failures import FAILED, in_one_sentence
from drr.loop.formats import PlainChain, ReasoningFormat
from drr.loop.steps import StepRule
from server import logs, metrics
from server.admission.setting_up import api_keys, make_door
from server.app import make_app
from server.arguments import parse_args, usual_options
from server.contradictions import check_log_folder
from server.decisions.setting_up import logging_decisions
from server.dm_flags import DmFolder
from server.engine import ThinkingEngine
from server.engines import Models, start_models
from server.errors import EngineDiedError, StartupError
from server.health import beating
from server.judges import Dm, check_downloaded, read_dms
from server.lifecycle import Lifecycle
from server.listening import listen
from server.revival import reviving
from server.start_checks import check_adapters, check_middleware, check_template
from server.upstream import Upstream, find_upstream, looking, prepare
from server.vllm_api import setup_server

logger = logging.getLogger("drr")

_REFERENCE = str(reference.reasoner_folder())
_START_TAKES = " (half a minute on two CPU cores)"


async def serve(args: argparse.Namespace, engine_class: type[ThinkingEngine] = ThinkingEngine) -> None:
    """Serve until SIGINT or SIGTERM."""
    if args.upstream is not None:
        await serve_upstream(args, engine_class)
        return
    await _serve(args, engine_class, None)


async def serve_upstream(args: argparse.Namespace, engine_class: type[ThinkingEngine]) -> None:
    """Serve in front of another server."""
    upstream = await find_upstream(args)
    try:
        if upstream.abilities.tier != "completions":
            await serve_chat_only(args, upstream)
            return
        print("\n".join(upstream.abilities.lines()), flush=True)
        if args.model is None:
            raise InputError("--upstream", "needs MODEL: its tokenizer and chat template make the prompts")
        prepare(args, upstream.abilities, usual_options())
        await _serve(args, engine_class, upstream)
    finally:
        await upstream.client.aclose()


async def serve_chat_only(args: argparse.Namespace, upstream: Upstream) -> None:
    """Serve in front of an upstream that has chat completions only."""
    from server.upstream_chat.run import run as run_chat

    await run_chat(args, upstream.client, upstream.abilities, upstream.prices, partial(print, flush=True))


async def _serve(args: argparse.Namespace, engine_class: type[ThinkingEngine], upstream: Upstream | None) -> None:
    rule = StepRule.parse(args.drr_step_rule)
    check_log_folder(args.drr_decision_log)
    dms = read_dms(args, rule)
    form = reasoning_format(args)
    check_adapters(args)
    check_middleware(args)
    keys = api_keys(args)
    listen_address, sock = _bound(args)
    models = Models()
    print(f"Starting {_name(args)}{_START_TAKES if args.model == _REFERENCE else ''} ...", flush=True)
    try:
        await _start(models, dms, args, engine_class, upstream)
        assert models.reasoner is not None
        check_downloaded(dms, models.reasoner, rule, args)
        lifecycle = Lifecycle(make_door(args, keys, models.reasoner), args.drr_shutdown_lead, args.shutdown_timeout)
        async with beating(models.engines()) as pulses, looking(models.reasoner, pulses):
            app = await _made(make_app(args, models, form, rule, lifecycle, pulses))
            told = _invitation(args, listen_address, models.dms, form)
            log = logging_decisions(args, models.reasoner)
            async with reviving(models.dms, models.reasoner.drr, pulses), log:
                await listen(app, args, sock, lifecycle, _death_of(models.reasoner), partial(print, told, flush=True))
    finally:
        await models.shutdown()
        sock.close()


def _death_of(engine: ThinkingEngine) -> Callable[[], bool]:
    """Whether the server has to go because its engine is gone; vLLM's variable keeps it all the same."""
    kept = os.environ.get("VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "0") not in ("", "0")
    return lambda: engine.errored and not kept


def _bound(args: argparse.Namespace) -> tuple[str, Any]:
    """The address that the server will listen on, and its socket."""
    try:
        bound: tuple[str, Any] = setup_server(args, reuse_port=False)
    except OSError as error:
        raise InputError("--uds" if args.uds else "--port", in_one_sentence(error) or str(error)) from error
    except KeyError as error:  # vLLM's word for a parser that it does not know
        raise StartupError(cause_of(error)) from error
    return bound


async def _start(
    models: Models,
    dms: Sequence[DmFolder],
    args: argparse.Namespace,
    engine_class: type[ThinkingEngine],
    upstream: Upstream | None,
) -> None:
    """Start every model; what keeps one from starting is a StartupError, one sentence."""
    log = StartLog()
    try:
        with log:
            await start_models(models, dms, args, engine_class, upstream)
    except (InputError, StartupError):
        raise
    except Exception as error:
        what = next(iter(getattr(error, "__notes__", ())), "the server")
        raise StartupError(f"{what} cannot be started: {log.explain(error)}") from error


async def _made(making: Coroutine[Any, Any, FastAPI]) -> FastAPI:
    """The app; StartupError, one sentence, where the flags about it cannot be honoured."""
    try:
        return await making
    except (InputError, StartupError):
        raise
    except Exception as error:
        raise StartupError(f"the server cannot be started: {cause_of(error)}") from error


def reasoning_format(args: argparse.Namespace) -> ReasoningFormat | None:
    """How the Reasoner thinks; vLLM is told the parser that goes with it, where the operator named none.

    None where the operator's own parser does not say and nobody judges: vLLM then serves as without DRR.
    """
    outputs = args.structured_outputs_config
    named = args.reasoning_parser or outputs.reasoning_parser
    tokenizer = load_tokenizer(args.tokenizer or args.model, "--model", trust_remote_code=args.trust_remote_code)
    check_template(args, tokenizer)
    if args.reasoning_parser_plugin:
        _load_plugin(args.reasoning_parser_plugin)
    try:
        chosen = choose_format(tokenizer, named, args.drr_answer_cue)
    except UnmarkedThinkingError as error:
        if args.dm or args.prm or args.drr_scorer:
            raise
        logger.warning("%s; served without stops and budgets", error)
        return None
    if args.drr_answer_cue != DEFAULT_ANSWER_CUE and not isinstance(chosen.form, PlainChain):
        raise InputError("--drr-answer-cue", f"has no effect: this Reasoner thinks in {chosen.form.kind}")
    if not named and chosen.parser:
        args.reasoning_parser = outputs.reasoning_parser = chosen.parser
    return chosen.form


def _load_plugin(path: str) -> None:
    try:
        load_parser_plugin(path)
    except Exception as error:  # whatever the user's file does when it is imported
        raise InputError("--reasoning-parser-plugin", f"{path} cannot be loaded: {cause_of(error)}") from error


def _name(args: argparse.Namespace) -> str:
    name: str = args.served_model_name[0] if args.served_model_name else args.model
    return name


def _invitation(args: argparse.Namespace, address: str, dms: Sequence[Dm], form: ReasoningFormat | None) -> str:
    name = _name(args)
    judge = "without a DM: plain vLLM, unless the drr object asks for a budget or a scorer"
    if args.drr_scorer:
        judge = f"judged by {args.drr_scorer}"
    elif dms:
        judge = f"judged by {dms[0].card.id}"
    url = address.replace("0.0.0.0", "127.0.0.1")
    body = (
        f'{{"model": "{name}", "messages": [{{"role": "user", "content": '
        '"Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?"}]}'
    )
    return (
        f"\nServing {name}, {judge}, at {url}/v1.{_thinks(form)} Try:\n\n"
        f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n"
        f"{_page(args, url)}"
    )


def _page(args: argparse.Namespace, url: str) -> str:
    """The last line that is printed: where to see it think."""
    if args.drr_no_playground or args.uds:
        return ""
    return f"\nThe playground is at {url}/\n"


def _thinks(form: ReasoningFormat | None) -> str:
    return "" if form is None else f" It thinks in: {form.kind}."


def run(argv: Sequence[str], engine_class: type[ThinkingEngine] | None = None) -> int:
    """Serve as asked; returns the exit status."""
    import uvloop

    outlast_full_disks(metrics.LOG_LOST.inc)
    prepare_environment()
    args = parse_args(argv)
    logs.set_up(args)
    if args.otlp_traces_endpoint is not None:
        from server.tracing import name_service  # which needs packages that nothing else does

        name_service()

    def stop_before_serving(*_: object) -> None:
        kill_engines()
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_before_serving)
    own_engines()
    try:
        uvloop.run(serve(args, engine_class or ThinkingEngine))
    except KeyboardInterrupt:
        return 0
    except (StartupError, InputError, EngineDiedError) as error:
        print(f"drr serve: {without_passwords(str(error))}", file=sys.stderr)
        return FAILED
    return 0
