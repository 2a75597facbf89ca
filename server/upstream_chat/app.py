"""The app: chat completions, the models, how the server is, and the playground."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

import drr
from drr.engine.upstream.abilities import UpstreamAbilities
from server.admission.middleware import Admission
from server.endpoints import CHAT_PATH
from server.lifecycle import Lifecycle
from server.playground.files import playground_routes
from server.refusals import Refusal
from server.resolve import Asked, resolve
from server.schema import DrrError, DrrRequest
from server.settings import Settings
from server.upstream_chat.asking import in_tier
from server.upstream_chat.handler import ChatServer


class Pulse(Protocol):
    """Whether the upstream answers."""

    @property
    def state(self) -> str:
        """`ok`, or `away`."""
        ...


def make_app(
    server: ChatServer,
    abilities: UpstreamAbilities,
    lifecycle: Lifecycle,
    pulse: Pulse,
    *,
    dm_alive: Callable[[], bool] | None = None,
    playground: bool = True,
) -> FastAPI:
    """The app behind DRR's door. `dm_alive` tells whether the DM still answers, None where there is none."""
    app = FastAPI(
        title="DRR",
        version=drr.__version__,
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Admission, door=lifecycle.door)],
    )
    app.router.routes += [
        *_health_routes(lifecycle, pulse, dm_alive),
        *_model_routes(server, abilities),
        *(playground_routes() if playground else ()),
        Route("/metrics", _metrics, methods=["GET"]),
        Route("/version", _version, methods=["GET"]),
    ]
    app.add_api_route(CHAT_PATH, server.__call__, methods=["POST"], response_model=None)
    app.add_exception_handler(404, _not_here)
    app.add_exception_handler(405, _not_here)
    return app


def told_abilities(server: ChatServer, abilities: UpstreamAbilities) -> dict[str, Any]:
    """The `drr` object of the model's card, as for a model of one's own, and what the upstream allows beside it."""
    upstream = server.upstream
    judged = _settings(DrrRequest(mode="auto"), server)
    again = _settings(DrrRequest(mode="auto", max_rethinks=1), server)
    name = None if judged is None else judged.judge
    judge = None if name is None else server.scorers[name].id if name in server.scorers else name
    return {
        "judge": judge,
        "step_rule": str(upstream.rule),
        "risks": [],
        "settings": in_tier(resolve(None, upstream.defaults, Asked()), upstream.abilities.tier).as_dict(),
        "auto": None if judged is None else judged.as_dict(),
        "thinking_again": None if again is None else again.as_dict(),
        "upstream": abilities.as_dict(),
    }


def _settings(request: DrrRequest, server: ChatServer) -> Settings | None:
    try:
        return in_tier(resolve(request, server.upstream.defaults, Asked()), server.upstream.abilities.tier)
    except DrrError:
        return None


def _health_routes(lifecycle: Lifecycle, upstream: Pulse, dm_alive: Callable[[], bool] | None) -> list[BaseRoute]:
    def states() -> dict[str, str]:
        dm = "none" if dm_alive is None else "ok" if dm_alive() else "dead"
        return {"reasoner": upstream.state, "dm": dm}

    async def health(request: Request) -> JSONResponse:
        """200 while answers can be given; `away` tells that the upstream does not answer, `degraded` that the DM is
        gone."""
        found = states()
        away = found["reasoner"] == "away"
        status = "away" if away else "degraded" if found["dm"] == "dead" else "ok"
        return JSONResponse({"status": status, **found}, status_code=503 if away else 200)

    async def live(request: Request) -> JSONResponse:
        """200: what is wrong elsewhere no new server mends."""
        return JSONResponse({"live": True, "reasoner": upstream.state})

    async def ready(request: Request) -> JSONResponse:
        """200 while new requests are wanted."""
        why = lifecycle.why_not_ready
        reasons = [] if why is None else [why]
        if upstream.state != "ok":
            reasons.append("the upstream does not answer")
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    return [
        Route("/health", health, methods=["GET"]),
        Route("/live", live, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
    ]


def _model_routes(server: ChatServer, abilities: UpstreamAbilities) -> list[BaseRoute]:
    created, told = int(time.time()), told_abilities(server, abilities)
    aliases = ["full"] if server.upstream.defaults.rule is None else ["drr", "full"]

    def cards() -> list[dict[str, Any]]:
        found = []
        for name in server.upstream.names:
            card = {"id": name, "object": "model", "created": created, "owned_by": "drr", "parent": None}
            card["max_model_len"] = abilities.max_model_len
            found.append({**card, "drr": told})
            found += [{**card, "id": f"{name}:{alias}", "parent": name} for alias in aliases]
        return found

    async def list_models(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": cards()})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        for card in cards():
            if card["id"] == name:
                return JSONResponse(card)
        told = f"The model `{name[:200]}` does not exist."
        return Refusal(404, told, kind="NotFoundError", code=404, param="model").response(CHAT_PATH)

    return [
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", one_model, methods=["GET"]),
    ]


async def _metrics(request: Request) -> Response:
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


async def _version(request: Request) -> JSONResponse:
    return JSONResponse({"drr": drr.__version__})


async def _not_here(request: Request, error: Exception) -> Response:
    """What is said of the endpoints that an engine of one's own has."""
    status = int(getattr(error, "status_code", 404))
    path = request.url.path[:200]
    told = f"{request.method} {path} is not served: of this upstream only {CHAT_PATH} and /v1/models are"
    return Refusal(status, told, kind="NotFoundError", code=status).response(CHAT_PATH)
