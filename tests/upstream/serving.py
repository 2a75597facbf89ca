"""A scripted vendor, and a server of ours in front of it."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx

from drr.engine.upstream.abilities import UpstreamAbilities
from drr.engine.upstream.chat import ChatAbilities
from drr.engine.upstream.chat_probe import probe_chat
from drr.engine.upstream.cost import Prices
from drr.engine.upstream.http import UpstreamClient
from drr.judge.scorers.registry import training_free
from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.rule import Rule
from drr.loop.scoring import Boundary, Scorer
from drr.loop.steps import StepRule
from server.admission.api_keys import ApiKeys, KeyLimits
from server.admission.bodies import BodyLimits
from server.admission.gate import Gate
from server.admission.middleware import Door
from server.admission.under_way import UnderWay
from server.lifecycle import Lifecycle
from server.settings import Defaults
from server.upstream_chat.app import make_app
from server.upstream_chat.asking import Upstream
from server.upstream_chat.handler import ChatServer
from tests.upstream.vendors import MODEL, Vendor, listening

QUESTION: Any = [{"role": "user", "content": "What is 17 + 4?"}]
PRICES = Prices(1.0, 0.1, 10.0)


class WordDm:
    """A DM that believes what holds a certain word."""

    id = "word-dm"

    def __init__(self, believed: Mapping[str, float]) -> None:
        self._believed = believed
        self.seen: list[tuple[str, ...]] = []

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "WordDm":
        return self

    async def score(self, boundary: Boundary) -> Score:
        self.seen.append(boundary.steps)
        values = [value for word, value in self._believed.items() if word in boundary.text]
        value = max(values, default=0.05)
        return Score(value, value)


@dataclass
class SaidPulse:
    """Whether the upstream answers, as the test says."""

    state: str = "ok"


@dataclass
class Served:
    """What tests talk to."""

    vendor: Vendor
    client: UpstreamClient
    server: ChatServer
    http: httpx.AsyncClient
    url: str
    pulse: SaidPulse
    gate: Gate

    async def ask(self, **fields: Any) -> httpx.Response:
        """A chat completion."""
        body = {"model": MODEL, "messages": QUESTION, **fields}
        return await self.http.post("/v1/chat/completions", json={k: v for k, v in body.items() if v is not None})


@contextlib.asynccontextmanager
async def serving(
    vendor: Vendor,
    *,
    dm: WordDm | None = None,
    scorer: str | None = None,
    abilities: ChatAbilities | None = None,
    keys: tuple[str, ...] = (),
    running: int = 1000,
    retries: int = 2,
    silence: float = 20.0,
) -> AsyncIterator[Served]:
    """A server in front of `vendor`, probed at start unless its abilities are given."""
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(listening(vendor))
        root = address + vendor.path.removesuffix("/chat/completions")
        pulse = SaidPulse()
        client = UpstreamClient(root, key="sk-upstream", retries=retries, timeout=silence)
        stack.push_async_callback(client.aclose)
        chat = abilities or await probe_chat(client, MODEL)
        scorers: dict[str, Scorer] = {**training_free(), **({} if dm is None else {"dm": cast(Scorer, dm)})}
        rule = None if dm is None else Rule(0.9 if chat.tier == "prefix" else None)
        defaults = Defaults(
            mode="auto" if dm is not None or scorer is not None else "off",
            rule=rule,
            scorer=cast(Any, scorer or ("dm" if dm is not None else None)),
            answer_tokens=8,
        )
        upstream = Upstream(chat, MODEL, [MODEL], defaults, StepRule())
        server = ChatServer(client, upstream, scorers, PRICES)
        door = Door.of(
            ApiKeys(list(keys), None, KeyLimits(None, None)),
            BodyLimits(1 << 20, 100, 60.0, 64 << 20),
            Gate(running, 4),
            UnderWay(None, 60.0),
        )
        lifecycle = Lifecycle(door, 0.0, 1.0, ready=True)
        told = UpstreamAbilities(chat.tier, MODEL, chat=chat)
        app = make_app(server, told, lifecycle, pulse)
        url = await stack.enter_async_context(listening(app))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30.0))
        vendor.bodies.clear()
        vendor.statuses.clear()
        yield Served(vendor, client, server, http, url, pulse, door.gate)
