"""DRR in the OpenAPI document: the `drr` object in requests, responses and chunks, the header, title and version."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import drr
from server.endpoints import ENDPOINTS
from server.keys import BY_NAME, MODES
from server.schema import DrrRequest
from server.wire import Account, Accounts, StepChunk

_DESCRIPTION = "An OpenAI-compatible server for reasoning models that think exactly as long as it pays."
_TAKERS = ("ChatCompletionRequest", "ResponsesRequest", "AnthropicMessagesRequest")
_TELLERS = (
    *("ChatCompletionResponse", "ChatCompletionStreamResponse"),
    *("ResponsesResponse", "AnthropicMessagesResponse"),
)
_REFERENCE = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Let the app's OpenAPI document tell of DRR."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title="DRR", version=drr.__version__, description=_DESCRIPTION, routes=app.routes, servers=app.servers
            )
            app.openapi_schema = with_drr(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it


def with_drr(document: dict[str, Any]) -> dict[str, Any]:
    """vLLM's document with DRR's schemas in it."""
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(_schemas())
    request = {"anyOf": [_reference(DrrRequest), {"type": "null"}], "description": "What DRR is asked for."}
    for name in _TAKERS:
        if name in components:
            components[name]["properties"]["drr"] = request
    told = [_reference(model) for model in (Account, Accounts, StepChunk)]
    for name in _TELLERS:
        if name in components:
            components[name]["properties"]["drr"] = {"anyOf": told, "description": "What DRR did."}
    header = {
        "name": "X-DRR",
        "in": "header",
        "required": False,
        "description": "The drr object as JSON, for clients that cannot send other fields.",
        "schema": {"type": "string"},
    }
    for endpoint in ENDPOINTS:
        operation = document.get("paths", {}).get(endpoint.path, {}).get("post")
        if operation is not None and endpoint.takes_drr:
            operation.setdefault("parameters", []).append(header)
    return document


def _schemas() -> dict[str, Any]:
    """DRR's models by name; a request's keys say where each is taken."""
    models: list[Any] = [(model, "validation") for model in (DrrRequest, Account, Accounts, StepChunk)]
    _, found = models_json_schema(models, ref_template=_REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    for name, field in schemas[DrrRequest.__name__]["properties"].items():
        key = BY_NAME[name]
        modes = "" if len(key.modes()) == len(MODES) else f" In modes {', '.join(key.modes())}."
        field["description"] = f"{key.meaning}.{modes} Default: {key.default}."
    return schemas


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
