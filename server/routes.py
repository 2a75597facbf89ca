"""Routes of ours that stand before vLLM's: health, version, the list of models."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.routing import BaseRoute, Route

import drr
from drr.judge.scorers.process_reward import ProcessRewardScorer
from server.health import Pulse
from server.judges import Dm
from server.lifecycle import Lifecycle
from server.vllm_api import VLLM_VERSION, AsyncLLM, ModelCard, ModelList, OpenAIServingModels


def own_routes(
    engine: AsyncLLM,
    models: OpenAIServingModels,
    dm: Dm | None,
    prm: ProcessRewardScorer | None,
    aliases: Sequence[str],
    lifecycle: Lifecycle,
    pulses: Mapping[str, Pulse],
    told: Mapping[str, Any],
) -> list[BaseRoute]:
    """The routes; `aliases` are what may stand behind a base model's name, `told` is the `drr` object of its card."""

    def states() -> dict[str, str]:
        """How every engine is, as far as there is one."""
        found = {"reasoner": "dead" if engine.errored else pulses["reasoner"].state}
        found["dm"] = "none" if dm is None else "dead" if dm.dead else pulses["dm"].state if "dm" in pulses else "ok"
        if prm is not None:
            found["prm"] = "dead" if prm.dead else pulses["prm"].state
        return found

    async def health(request: Request) -> JSONResponse:
        """200 while answers can be given; `away` tells that the upstream does not answer, `degraded` that a judge is
        gone and thinking runs in full, or that an engine has not answered for long."""
        found = states()
        gone = found["reasoner"] in ("dead", "away")
        status = found["reasoner"] if gone else "ok" if set(found.values()) <= {"ok", "none"} else "degraded"
        return JSONResponse({"status": status, **found}, status_code=503 if gone else 200)

    async def live(request: Request) -> JSONResponse:
        """200 while the server is worth keeping; 503 where only a new one helps."""
        reasoner = states()["reasoner"]
        status = 200 if reasoner in ("ok", "away") else 503
        return JSONResponse({"live": status == 200, "reasoner": reasoner}, status_code=status)

    async def ready(request: Request) -> JSONResponse:
        """200 while new requests are wanted. A judge that is gone keeps nobody away: thinking then runs in full."""
        reasoner, why = states()["reasoner"], lifecycle.why_not_ready
        reasons = [] if why is None else [why]
        if reasoner != "ok":
            reasons.append(
                "the upstream does not answer" if reasoner == "away" else f"the Reasoner's engine is {reasoner}"
            )
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    async def version(request: Request) -> JSONResponse:
        """vLLM's version where vLLM's clients look for it, and DRR's beside it."""
        return JSONResponse({"version": VLLM_VERSION, "drr": drr.__version__})

    async def named_models() -> ModelList:
        """vLLM's models, and `<name>:<alias>` beside every base model."""
        listing: ModelList = await models.show_available_models()
        cards = {card.id: card for card in listing.data}
        for path in models.base_model_paths:
            for alias in aliases:
                card: ModelCard = cards[path.name].model_copy(
                    update={"id": f"{path.name}:{alias}", "parent": path.name}
                )
                listing.data.append(card)
        return listing

    def shown(card: ModelCard) -> dict[str, Any]:
        """A card as clients see it."""
        base = card.id in {path.name for path in models.base_model_paths}
        return {**card.model_dump(), **({"drr": told} if base else {})}

    async def list_models(request: Request) -> JSONResponse:
        """All of them."""
        listing = await named_models()
        return JSONResponse({**listing.model_dump(), "data": [shown(card) for card in listing.data]})

    async def one_model(request: Request) -> JSONResponse:
        """The model of this name, as OpenAI's clients retrieve it."""
        name = request.path_params["name"]
        for card in (await named_models()).data:
            if card.id == name:
                return JSONResponse(shown(card))
        message = f"The model `{name}` does not exist."
        error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
        return JSONResponse({"error": error}, status_code=404)

    return [
        Route("/health", health, methods=["GET"]),
        Route("/live", live, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/version", version, methods=["GET"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", one_model, methods=["GET"]),
    ]
