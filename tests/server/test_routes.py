"""Every route of the server: open to everybody by a list, or behind a key; and behind the gate where it computes."""

from typing import Any

import pytest
from starlette.routing import Mount

from server.admission.api_keys import ApiKeys
from server.admission.middleware import METRICS_PATH, OPEN_PATHS
from server.arguments import parse_args
from server.endpoints import endpoint_of
from server.vllm_api import build_app
from tests.server.admission.asgi import Answering, Client, door, guarded

_TASKS: Any = ("generate", "embed", "classify", "transcription", "realtime", "render")

UNGATED = {
    *("/tokenize", "/detokenize", "/v1/messages/count_tokens", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    *("/v1/chat/completions/render", "/v1/completions/render", "/v1/messages/render", "/v1/responses/render"),
    *("/v1/chat/completions/derender", "/v1/completions/derender", "/v1/responses/{response_id}/cancel"),
    *("/scale_elastic_ep", "/is_scaling_elastic_ep", "/inference/v1/abort_requests"),
}
"""Paths that are written to where nothing is generated."""

OPEN = {"/health", "/live", "/ready", "/ping", "/version", "/metrics"}


def routes(*flags: str, tasks: Any = _TASKS) -> list[tuple[str, set[str] | None]]:
    """The paths and methods of vLLM's app; None for the methods of a WebSocket."""
    app = build_app(parse_args(flags), tasks, None)
    found: list[Any] = [route for route in app.routes if not isinstance(route, Mount)]
    return [(route.path, getattr(route, "methods", None)) for route in found]


@pytest.fixture(scope="module")
def all_routes() -> list[tuple[str, set[str] | None]]:
    return routes(tasks=("generate",)) + routes("--enable-lora")


def test_what_is_open_is_listed() -> None:
    assert OPEN_PATHS | {METRICS_PATH} == OPEN


async def test_every_route_is_open_by_the_list_or_needs_a_key(all_routes: Any) -> None:
    app = Answering()
    app.may_end.set()
    guard, _ = guarded(app, door(ApiKeys(["k" * 16])))
    paths = [path for path, _ in all_routes]
    assert {"/v1/chat/completions", "/invocations", "/scale_elastic_ep", "/docs", "/v1/responses"} <= set(paths)
    for path, methods in all_routes:
        concrete = path.replace("{response_id}", "resp_1").replace("{name:path}", "x")
        for method in methods or ():
            for asked in (concrete, f"{concrete}/", f"/{concrete}", f"/health/..{concrete}", concrete.upper()):
                client = await Client(guard, path=asked, method=method).done()
                is_open = asked in OPEN and method in ("GET", "HEAD")
                assert (client.status == 200) is is_open, (method, asked)
                assert is_open or client.status == 401


def test_every_route_that_computes_is_behind_the_gate(all_routes: Any) -> None:
    posted = {path for path, methods in all_routes if methods and "POST" in methods} - OPEN
    ungated = {path for path in posted if not endpoint_of(path.replace("{response_id}", "resp_1")).thinks}
    assert ungated <= UNGATED
    assert {"/v1/chat/completions", "/v1/messages", "/generative_scoring", "/invocations"} <= posted - ungated
