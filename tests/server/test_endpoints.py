"""Endpoint by endpoint: DRR's options are taken, or refused by name; none is ignored that could have been left out."""

from typing import Any

import httpx
import pytest

from server.endpoints import ALIASES, CHAT_PATH, ENDPOINTS, Endpoint, endpoint_of
from tests.server.running import MODEL, QUESTION, Server

CONVERSATION = [{"role": "user", "content": QUESTION}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT_PATH: {"messages": CONVERSATION},
    "/invocations": {"messages": CONVERSATION},
    "/v1/chat/completions/batch": {"messages": [CONVERSATION]},
    "/v1/completions": {"prompt": "12 + 24 =", "max_tokens": 4},
    "/v1/responses": {"input": QUESTION, "max_output_tokens": 20},
    "/v1/messages": {"messages": CONVERSATION, "max_tokens": 20},
    "/v1/messages/count_tokens": {"messages": CONVERSATION},
    "/tokenize": {"prompt": "12"},
    "/detokenize": {"tokens": [12, 13]},
    "/v1/completions/render": {"prompt": "12"},
    "/v1/chat/completions/render": {"messages": CONVERSATION},
}
"""A request that works, for every path that this server has."""


def post(server: Server, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={"model": MODEL, **body}, headers=headers, timeout=60)


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.fixture(params=[endpoint for endpoint in ENDPOINTS if endpoint.path in BODIES], ids=lambda own: own.path)
def endpoint(request: pytest.FixtureRequest, server: Server) -> Endpoint:
    endpoint: Endpoint = request.param
    if post(server, endpoint.path, BODIES[endpoint.path]).status_code in (403, 404):
        pytest.skip("this server does not serve that path")
    return endpoint


def test_a_drr_object_is_taken_or_refused(server: Server, endpoint: Endpoint) -> None:
    body = BODIES[endpoint.path]
    for absent in ({}, {"drr": None}):
        assert post(server, endpoint.path, {**body, **absent}).status_code == 200
    wrong = post(server, endpoint.path, {**body, "drr": {"nonsense": 1}})
    assert error_of(wrong)["param"] == ("drr.nonsense" if endpoint.takes_drr else "drr")
    asked = post(server, endpoint.path, {**body, "drr": {"mode": "shadow"}})
    if endpoint.takes_drr:
        assert asked.json()["drr"]["settings"]["mode"] == "shadow"
    else:
        assert error_of(asked)["param"] == "drr"
        assert CHAT_PATH in error_of(asked)["message"]


def test_the_header_is_taken_refused_or_no_matter(server: Server, endpoint: Endpoint) -> None:
    response = post(server, endpoint.path, BODIES[endpoint.path], **{"X-DRR": '{"mode": "shadow"}'})
    if endpoint.takes_drr:
        assert response.json()["drr"]["settings"]["mode"] == "shadow"
    elif endpoint.thinks:
        assert error_of(response)["param"] == "X-DRR"
    else:
        assert response.status_code == 200


@pytest.mark.parametrize("alias", ALIASES)
def test_a_listed_name_works_or_is_refused(server: Server, endpoint: Endpoint, alias: str) -> None:
    response = post(server, endpoint.path, {**BODIES[endpoint.path], "model": f"{MODEL}:{alias}"})
    if endpoint.takes_drr:
        assert response.json()["drr"]["settings"]["mode"] == ALIASES[alias]
    elif endpoint.thinks and alias == "drr":
        assert error_of(response)["param"] == "model"
    else:
        assert response.status_code == 200


def test_the_plan_of_a_request_cannot_be_forged(server: Server, endpoint: Endpoint) -> None:
    response = post(server, endpoint.path, {**BODIES[endpoint.path], "vllm_xargs": {"drr": "x"}})
    assert error_of(response)["param"] == "vllm_xargs"


def test_a_refusal_speaks_the_language_of_its_endpoint(server: Server) -> None:
    anthropic = post(server, "/v1/messages", {**BODIES["/v1/messages"], "drr": {"nonsense": 1}}).json()
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "invalid_request_error"
    escaped = '{"model": "drr-reference", "prompt": "12", "\\u0064rr": {"mode": "off"}}'
    response = httpx.post(f"{server.url}/tokenize", content=escaped, headers={"Content-Type": "application/json"})
    assert error_of(response)["param"] == "drr", "however the key is spelled"


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/completions", "/tokenize"])
def test_a_browser_may_read_a_refusal(server: Server, path: str) -> None:
    response = post(server, path, {**BODIES[path], "drr": {"nonsense": 1}}, Origin="http://a.example")
    assert response.status_code == 400
    assert response.headers["access-control-allow-origin"] == "*"


def test_reading_requests_may_carry_the_header_and_models_can_be_retrieved(server: Server) -> None:
    headers = {"X-DRR": "this is not even JSON"}
    for path in ("/v1/models", "/health", "/metrics", "/version", "/openapi.json", f"/v1/models/{MODEL}:drr"):
        assert httpx.get(f"{server.url}{path}", headers=headers).status_code == 200
    assert server.sdk.models.retrieve(f"{MODEL}:full").id == f"{MODEL}:full"
    assert httpx.get(f"{server.url}/v1/models/nothing").json()["error"]["param"] == "model"


def test_the_document_tells_of_drr(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert document["info"]["title"] == "DRR"
    assert document["info"]["version"] == httpx.get(f"{server.url}/version").json()["drr"]
    schemas = document["components"]["schemas"]
    names = ("ChatCompletionRequest", "ChatCompletionResponse", "ChatCompletionStreamResponse")
    for name in (*names, "ResponsesRequest", "ResponsesResponse", "AnthropicMessagesRequest"):
        assert "drr" in schemas.get(name, {"properties": {"drr": 1}})["properties"]
    keys = schemas["DrrRequest"]["properties"]
    assert "Default:" in keys["threshold"]["description"]
    assert schemas["DrrRequest"]["additionalProperties"] is False
    headers = [own["name"] for own in document["paths"][CHAT_PATH]["post"]["parameters"]]
    assert headers.count("X-DRR") == 1


def test_a_path_that_nobody_has_heard_of_is_taken_for_one_that_thinks() -> None:
    assert endpoint_of("/v2/think") == Endpoint("/v2/think")
    assert endpoint_of("/v2/think").thinks
    assert not endpoint_of("/v1/responses/resp_1/cancel").thinks
