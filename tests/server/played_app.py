"""A whole server in this process, over a Reasoner that plays a script: vLLM's app, routes, renderer, handlers and
parsers are real, and so are DRR's; only the engine is played. No socket, and no model in memory.
"""

import argparse
import asyncio
import functools
import importlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from vllm.config import VllmConfig
from vllm.renderers import renderer_from_config
from vllm.v1.engine.input_processor import InputProcessor

from drr import reference
from drr.engine.formats import choose_format
from drr.engine.open_reasoner import load_tokenizer
from drr.judge.calibration import Calibration
from drr.loop.formats import ReasoningFormat
from drr.loop.rule import Rule
from drr.loop.steps import StepRule
from server.admission.api_keys import ApiKeys, KeyLimits
from server.admission.setting_up import make_door
from server.app import make_app
from server.arguments import parse_args
from server.engine import ThinkingEngine
from server.engines import Models
from server.lifecycle import Lifecycle
from server.vllm_api import AsyncEngineArgs, AsyncLLM, RequestOutput, RequestOutputKind, SamplingParams
from tests.fakes import FakeScorer
from tests.server.playing import Script

MODEL = "played"
URL = "http://played/v1"
THOUGHT = "so: 1+2=3.\n\nSo the answer is 5.\n\nLet me check.\n\n</think>\n\nThe answer is 5."
REJECTED = "so: 9.\n\n</think>\n\nThe answer is 9."
ABSTAIN = {"mode": "rethink", "accept": 0.9, "max_rethinks": 0, "on_exhausted": "abstain", "refusal": "I pass."}


@dataclass
class Played:
    """What the Reasoner thinks and answers, and what became of it. `scores` are the judge's, boundary by boundary.
    `attempts` are the thoughts of one attempt after another, the last of which is thought again and again; `group`
    tokens come at a time, `pace` seconds apart."""

    tokenizer: Any
    attempts: Sequence[str]
    answer: str
    group: int = 3
    pace: float = 0.0
    requests: int = 0
    generated: int = 0
    running: int = 0
    started: int = 0
    scripts: list[Script] = field(default_factory=list)

    async def generate(
        self, engine: Any, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.requests += 1
        self.running += 1
        try:
            parts: list[RequestOutput] = []
            async for output in self._script(prompt).generate(engine, prompt, params, request_id, **options):
                await asyncio.sleep(self.pace)
                self.generated += sum(len(completion.token_ids) for completion in output.outputs)
                parts.append(output)
                if params.output_kind is RequestOutputKind.DELTA:
                    yield output
            if params.output_kind is not RequestOutputKind.DELTA:
                yield _whole(parts)
        finally:
            self.running -= 1

    def _script(self, prompt: Any) -> Script:
        """The script that goes on with this prompt, or the next attempt's."""
        ids = list(prompt["prompt_token_ids"])
        for script in self.scripts:
            if len(ids) > len(script.prompt) and ids[: len(script.prompt)] == script.prompt:
                return script
        text = self.attempts[min(self.started, len(self.attempts) - 1)]
        self.started += 1
        end = [self.tokenizer.eos_token_id]
        thought = [*self.tokenizer.encode(text, add_special_tokens=False), *end]
        answered = [*self.tokenizer.encode(self.answer, add_special_tokens=False), *end]
        self.scripts.append(Script(self.tokenizer, ids, thought, answered, lambda: self.group))
        return self.scripts[-1]


def _whole(parts: Sequence[RequestOutput]) -> RequestOutput:
    """The outputs of a request as the one that it is asked for."""
    last = parts[-1]
    last.outputs[0].text = "".join(part.outputs[0].text for part in parts)
    last.outputs[0].token_ids = [token for part in parts for token in part.outputs[0].token_ids]
    details = [entry for part in parts for entry in part.outputs[0].logprobs or ()]
    last.outputs[0].logprobs = details or None
    return last


@dataclass
class PlayedServer:
    """The app, and clients of it."""

    app: FastAPI
    played: Played
    scorer: FakeScorer
    engine: ThinkingEngine

    def play(self, *attempts: str, answer: str = "\n\nThe answer is 5.", scores: Sequence[float] = (0.1,)) -> None:
        """What the Reasoner does from now on, and what the judge says of it."""
        own = self.played
        own.attempts, own.answer, own.started, own.requests, own.generated = attempts, answer, 0, 0, 0
        own.scripts.clear()
        self.scorer.scores = list(scores)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://played", timeout=30)

    def openai(self) -> openai.AsyncOpenAI:
        http = _client_of(openai.DefaultAsyncHttpxClient, self.app)
        return openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0, http_client=http)

    def anthropic(self) -> Any:
        anthropic = pytest.importorskip("anthropic", reason="needs the dev extra")
        http = _client_of(anthropic.DefaultAsyncHttpxClient, self.app)
        root = URL.removesuffix("/v1")
        return anthropic.AsyncAnthropic(base_url=root, api_key="none", max_retries=0, http_client=http)

    async def post(self, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json={"model": MODEL, **body}, headers=headers)

    async def events(self, path: str, body: Mapping[str, Any], **headers: str) -> list[tuple[str, Any]]:
        """A stream's events: names (empty where there is none) and data."""
        response = await self.post(path, {**body, "stream": True}, **headers)
        assert response.status_code == 200, response.text
        found = []
        for block in response.text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in lines:
                data = lines["data"]
                found.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
        return found


def _client_of(client: Any, app: FastAPI) -> Any:
    """An SDK's HTTP client that asks the app, by the transport of the library that the SDK uses."""
    library = next(base.__module__ for base in client.__mro__ if base.__name__ == "AsyncClient")
    transport = importlib.import_module(library.partition(".")[0]).ASGITransport(app)
    return client(transport=transport)


@functools.cache
def vllm_config() -> VllmConfig:
    """The reference Reasoner's configuration, whose weights nobody loads."""
    made: VllmConfig = AsyncEngineArgs(
        model=str(reference.reasoner_folder()),
        served_model_name=[MODEL],
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 26,
    ).create_engine_config()
    return made


async def played_server(
    monkeypatch: pytest.MonkeyPatch,
    *flags: str,
    calibration: Calibration | None = None,
    form: ReasoningFormat | None = None,
    judge: bool = True,
) -> PlayedServer:
    """A server that was started with these flags; with a judge it thinks by `auto` and a threshold of 0.9."""
    args = _arguments([*flags, *(["--drr-scorer", "confidence"] if judge else [])])
    tokenizer = load_tokenizer(args.model, "--model")
    chosen = choose_format(tokenizer, "", "")
    args.structured_outputs_config.reasoning_parser = chosen.parser
    played = Played(tokenizer, ["so: 1+2=3.\n\n</think>"], "\n\nThe answer is 5.")
    engine = _engine(monkeypatch, played)
    models = Models(engine)
    lifecycle = Lifecycle(make_door(args, ApiKeys([], None, KeyLimits()), engine), 0.0, 1)
    level = logging.root.level
    app = await make_app(args, models, form or chosen.form, StepRule(), lifecycle, {})
    logging.root.setLevel(level)  # which vLLM has raised
    scorer = FakeScorer([0.1])
    assert engine.drr is not None
    if judge:
        engine.drr.scorers["dm"] = scorer
        engine.drr.defaults = replace(
            engine.drr.defaults,
            mode="auto",
            rule=Rule(0.9),
            scorer="dm",
            deadline=60.0,
            answer_tokens=32,
            calibration=calibration,
        )
    return PlayedServer(app, played, scorer, engine)


def _arguments(flags: Sequence[str]) -> argparse.Namespace:
    return parse_args(
        ["--model", str(reference.reasoner_folder()), "--served-model-name", MODEL, "--port", "0", *flags]
    )


def _engine(monkeypatch: pytest.MonkeyPatch, played: Played) -> ThinkingEngine:
    config = vllm_config()
    engine = object.__new__(ThinkingEngine)
    engine._admitted = set()
    engine.vllm_config, engine.model_config = config, config.model_config
    engine.observability_config = config.observability_config
    engine.renderer = renderer_from_config(config)
    engine.input_processor = InputProcessor(config, engine.renderer)
    resources = SimpleNamespace(engine_dead=False)
    engine.engine_core = SimpleNamespace(core_engines=[0], resources=resources, shutdown=lambda timeout=None: None)
    engine.log_stats, engine.logger_manager, engine.output_handler = False, None, None
    engine._supported_tasks = ("generate",)
    monkeypatch.setattr(AsyncLLM, "errored", property(lambda self: False))
    monkeypatch.setattr(AsyncLLM, "check_admission", lambda self, n=1, request_id=None: None)
    monkeypatch.setattr(AsyncLLM, "generate", lambda self, *a, **k: played.generate(self, *a, **k))
    return engine
