"""Serves a Reasoner of which only chat completions are served elsewhere: the judge, the app, and their end."""

import argparse
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from drr.engine.remote_dm import check_remote
from drr.engine.upstream.abilities import UpstreamAbilities
from drr.engine.upstream.chat import ChatAbilities
from drr.engine.upstream.chat_probe import probe_chat
from drr.engine.upstream.cost import Prices
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient
from drr.engine.upstream.judging import SCORERS
from drr.errors import InputError
from drr.judge.scorers.registry import training_free
from drr.loop.rule import Rule
from drr.loop.scoring import Scorer
from drr.loop.steps import StepRule
from server import metrics
from server.admission.bodies import BodyLimits
from server.admission.gate import Gate
from server.admission.middleware import Door
from server.admission.setting_up import api_keys
from server.admission.under_way import UnderWay
from server.arguments import given_flags, usual_options
from server.dm_flags import DmFolder, dm_folders
from server.errors import StartupError
from server.judges import Dm, start_judge, warm_up
from server.lifecycle import Lifecycle
from server.listening import listen
from server.playground.files import playground_paths
from server.settings import Defaults, DmDefaults
from server.upstream import UpstreamPulse
from server.upstream_chat.app import make_app
from server.upstream_chat.asking import Upstream
from server.upstream_chat.flags import refuse_useless
from server.upstream_chat.handler import ChatServer
from server.vllm_api import setup_server

logger = logging.getLogger("drr")

_RUNNING = 256
"""Requests at a time, where --drr-max-running does not say: the upstream has its own limit, and says so."""

_BODY_BYTES, _BODY_SECONDS, _MEMORY = 4 << 20, 60.0, 256 << 20


async def run(
    args: argparse.Namespace,
    client: UpstreamClient,
    abilities: UpstreamAbilities,
    prices: Prices | None,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; the client is the caller's to close, and `say` tells the operator. InputError for
    flags that make no sense in front of such an upstream."""
    chat = await _chat_abilities(client, abilities)
    abilities = replace(abilities, tier=chat.tier, chat=chat)
    say("\n".join(abilities.lines()))
    refuse_useless(args, usual_options(), chat.tier)
    rule = StepRule.parse(args.drr_step_rule)
    folder = _dm(args)
    if args.drr_scorer is not None and args.drr_scorer not in SCORERS[chat.tier]:
        known = ", ".join(SCORERS[chat.tier])
        raise InputError("--drr-scorer", f"{args.drr_scorer} cannot judge at this upstream (tier {chat.tier}); {known}")
    keys = api_keys(args)
    address, sock = setup_server(args, reuse_port=False)
    pulse = UpstreamPulse(client)
    try:
        async with _judge(args, folder) as dm:
            upstream = Upstream(chat, abilities.model, _names(args, abilities), _defaults(args, dm, chat.tier), rule)
            scorers: dict[str, Scorer] = {**training_free(), **({} if dm is None else {"dm": dm.scorer})}
            server = ChatServer(client, upstream, scorers, prices, args.drr_reasoning_key)
            lifecycle = Lifecycle(_door(args, keys), args.drr_shutdown_lead, args.shutdown_timeout)
            alive = None if dm is None else partial(_alive, dm)
            playground = not args.drr_no_playground
            app = make_app(server, abilities, lifecycle, pulse, dm_alive=alive, playground=playground)
            if dm is not None:
                metrics.DM_UP.set(1)
            told = f"\nServing {upstream.names[0]} of {client.url} (tier {chat.tier}) at {address}/v1."
            async with pulse.beating():
                await listen(app, args, sock, lifecycle, lambda: False, partial(say, told))
    finally:
        sock.close()


async def _chat_abilities(client: UpstreamClient, abilities: UpstreamAbilities) -> ChatAbilities:
    """What the upstream's chat completions allow. InputError where it has not the tier that it was said to have."""
    if abilities.chat is not None:
        return abilities.chat
    forced = abilities.tier if abilities.forced and abilities.tier != "completions" else None
    try:
        found = await probe_chat(client, abilities.model, forced)
        return found if forced is None else found.forced(forced)
    except ValueError as error:
        raise InputError("--upstream-tier", f"{forced}: {error}") from error
    except UpstreamError as error:
        raise StartupError(f"--upstream: {client.url}: {error}") from error


def _names(args: argparse.Namespace, abilities: UpstreamAbilities) -> Sequence[str]:
    return args.served_model_name or [abilities.model]


def _dm(args: argparse.Namespace) -> DmFolder | None:
    """The DM that judges. Only one that reads text can: an upstream shows no hidden states."""
    found = dm_folders(given_flags(args))
    if not found:
        return None
    folder = found[0]
    if folder.card.kind != "text" or len(found) > 1:
        reason = (
            f"a DM of kind {folder.card.kind} reads hidden states, which no upstream gives; only kind text can judge"
        )
        raise InputError("--dm" if len(found) == 1 else "--dm-beside", reason)
    if args.dm_url:
        check_remote(folder.card, args.dm_url)
    logger.warning(
        "Nobody can check that %s was trained on what this upstream serves: its certified risks are not offered",
        Path(folder.path).name,
    )
    return folder


@contextlib.asynccontextmanager
async def _judge(args: argparse.Namespace, folder: DmFolder | None) -> AsyncIterator[Dm | None]:
    if folder is None:
        yield None
        return
    dm = start_judge(folder, 0, args)
    try:
        await warm_up([dm])
        yield dm
    finally:
        await dm.shutdown()


def _alive(dm: Dm) -> bool:
    return not dm.dead


def _defaults(args: argparse.Namespace, dm: Dm | None, tier: str) -> Defaults:
    """The server's side of every setting. In tier opaque nothing ends thinking: the judge's rule is empty."""
    own = DmDefaults.of(None if dm is None else dm.card, lambda text: [])
    rule = own.rule if tier == "prefix" or own.rule is None else Rule(None)
    return Defaults(
        mode=args.drr_mode or ("auto" if dm is not None or args.drr_scorer else "off"),
        rule=rule,
        calibration=own.calibration,
        scorer=args.drr_scorer or ("dm" if dm is not None else None),
        separator=args.drr_separator,
        refusal=args.drr_refusal,
        answer_tokens=args.drr_answer_tokens or 256,
        deadline=args.dm_deadline_ms / 1000,
    )


def _door(args: argparse.Namespace, keys: Any) -> Door:
    running = args.drr_max_running or _RUNNING
    waiting = args.drr_max_waiting if args.drr_max_waiting is not None else -(-running // 4)
    gate = Gate(running, waiting)
    metrics.RUNNING.set_function(lambda: gate.running)
    metrics.WAITING.set_function(lambda: gate.waiting)
    size = args.drr_max_body_bytes or _BODY_BYTES
    return Door.of(
        keys,
        BodyLimits(size, args.drr_max_messages, _BODY_SECONDS, max(_MEMORY, size * 16)),
        gate,
        UnderWay(args.drr_request_seconds, args.drr_stall_seconds),
        protect_metrics=args.drr_protect_metrics,
        most_branches=args.drr_max_branches,
        also_open=frozenset() if args.drr_no_playground else playground_paths(),
    )
