"""Routes of ours that stand before vLLM's: health, version, the list of models."""

from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.routing import BaseRoute, Route

import drr
from drr.judge.scorers.process_reward import ProcessRewardScorer
from server.judges import Dm
from server.vllm_api import VLLM_VERSION, AsyncLLM, EngineDeadError, ModelCard, ModelList, OpenAIServingModels


def own_routes(
    engine: AsyncLLM,
    models: OpenAIServingModels,
    dm: Dm | None,
    prm: ProcessRewardScorer | None,
    aliases: Sequence[str],
) -> list[BaseRoute]:
    """The routes; `aliases` are what may stand behind a base model's name."""

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

    async def list_models(request: Request) -> JSONResponse:
        """All of them."""
        return JSONResponse((await named_models()).model_dump())

    async def one_model(request: Request) -> JSONResponse:
        """The model of this name, as OpenAI's clients retrieve it."""
        name = request.path_params["name"]
        for card in (await named_models()).data:
            if card.id == name:
                return JSONResponse(card.model_dump())
        message = f"The model `{name}` does not exist."
        error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
        return JSONResponse({"error": error}, status_code=404)

    return [
        Route("/health", health, methods=["GET"]),
        Route("/version", version, methods=["GET"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{name:path}", one_model, methods=["GET"]),
    ]
