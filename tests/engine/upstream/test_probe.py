"""What upstreams are found to allow."""

from typing import Any

import httpx
import pytest

from drr import reference
from drr.engine.open_reasoner import load_tokenizer
from drr.engine.upstream.completions import SAMPLING
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient
from drr.engine.upstream.probe import choose_model, completions
from drr.errors import InputError
from tests.engine.upstream.played import PlayedUpstream


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(reference.reasoner_folder()), "--model")


def played(tokenizer: Any, **options: Any) -> PlayedUpstream:
    return PlayedUpstream(tokenizer, lambda text: " five, six, seven, eight", **options)


async def test_vllm_is_known_by_the_ids_that_it_sends(tokenizer: Any) -> None:
    upstream = played(tokenizer)
    card = await choose_model(upstream.client(), None)
    found = await completions(upstream.client(), card, tokenizer, False)
    assert found is not None
    assert (found.tier, found.engine, found.token_prompts, found.ids_from) == ("completions", "vllm", True, "token_ids")
    assert (found.logprobs, found.usage, found.structured_outputs) == (2, True, True)
    assert found.samples == tuple(SAMPLING)
    assert found.max_model_len == 512


async def test_llama_cpp_sends_ids_beside_log_probabilities(tokenizer: Any) -> None:
    upstream = played(tokenizer, dialect="llamacpp", models=[{"id": "m", "owned_by": "llamacpp"}])
    found = await completions(upstream.client(), upstream.models[0], tokenizer, False)
    assert found is not None
    assert (found.engine, found.token_prompts, found.ids_from, found.logprobs) == ("llamacpp", True, "logprobs", 2)
    assert not found.structured_outputs
    assert "top_k" in found.samples


async def test_a_strict_server_is_sent_text_and_standard_options_only(tokenizer: Any) -> None:
    upstream = played(tokenizer, dialect="openai", models=[{"id": "m", "owned_by": "vllm"}])
    found = await completions(upstream.client(), upstream.models[0], tokenizer, False)
    assert found is not None
    assert (found.engine, found.token_prompts, found.ids_from) == ("", False, "text")
    assert "top_k" not in found.samples
    assert any("token counts" in line for line in found.lines())


async def test_a_server_without_completions_is_none_unless_forced(tokenizer: Any) -> None:
    def client() -> UpstreamClient:
        return UpstreamClient("http://u", transport=httpx.MockTransport(lambda request: httpx.Response(404, json={})))

    assert await completions(client(), {"id": "m"}, tokenizer, False) is None
    with pytest.raises(UpstreamError):
        await completions(client(), {"id": "m"}, tokenizer, True)


async def test_an_upstream_that_is_away_or_refuses_the_key_is_no_verdict(tokenizer: Any) -> None:
    for status in (401, 503):
        transport = httpx.MockTransport(lambda request, status=status: httpx.Response(status, json={}))  # type: ignore[misc]
        with pytest.raises(UpstreamError):
            await completions(UpstreamClient("http://u", transport=transport, retries=0), {"id": "m"}, tokenizer, False)


async def test_the_model_is_the_only_one_or_the_one_named(tokenizer: Any) -> None:
    cards = [{"id": "a"}, {"id": "a:drr", "parent": "a"}, {"id": "b"}]
    upstream = played(tokenizer, models=cards)
    with pytest.raises(InputError, match="serves a, b: name one"):
        await choose_model(upstream.client(), None)
    with pytest.raises(InputError, match="not c"):
        await choose_model(upstream.client(), "c")
    assert (await choose_model(upstream.client(), "a:drr"))["id"] == "a:drr"
    upstream.models = cards[:2]
    assert (await choose_model(upstream.client(), None))["id"] == "a"


async def test_a_gateway_without_a_list_serves_what_is_named() -> None:
    client = UpstreamClient("http://u", transport=httpx.MockTransport(lambda request: httpx.Response(404)))
    assert await choose_model(client, "m") == {"id": "m"}
    with pytest.raises(InputError, match="--upstream-model"):
        await choose_model(client, None)
