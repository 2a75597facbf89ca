"""How one generation is asked for, and how chunks are read."""

from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from drr import reference
from drr.engine.open_reasoner import load_tokenizer
from drr.engine.upstream.abilities import UpstreamAbilities
from drr.engine.upstream.completions import SAMPLING, body_of, check, read_chunk
from drr.engine.upstream.core import as_lists
from drr.engine.upstream.errors import UpstreamError

VLLM = UpstreamAbilities(
    "completions",
    "m",
    "vllm",
    token_prompts=True,
    ids_from="token_ids",
    logprobs=20,
    usage=True,
    samples=tuple(SAMPLING),
)
TEXT = UpstreamAbilities("completions", "m", ids_from="text", logprobs=5)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(reference.reasoner_folder()), "--model")


def test_options_at_their_defaults_are_not_sent() -> None:
    body = body_of(SamplingParams(temperature=0.5, max_tokens=7), [1, 2], TEXT)
    assert body == {"model": "m", "prompt": [1, 2], "stream": True, "max_tokens": 7, "temperature": 0.5, "top_p": 1.0}


def test_vllm_is_sent_all_that_a_request_holds() -> None:
    grammar = StructuredOutputsParams(choice=["a", "b"])
    params = SamplingParams(top_k=3, seed=4, logprobs=2, stop=["x"], structured_outputs=grammar, stream_interval=8)
    body = body_of(params, [1], VLLM, cache_salt="salt")
    assert (
        body.items()
        >= {
            "top_k": 3,
            "seed": 4,
            "logprobs": 2,
            "structured_outputs": {"choice": ["a", "b"]},
            "stream_interval": 8,
            "cache_salt": "salt",
        }.items()
    )
    assert body["return_token_ids"] is body["return_tokens_as_token_ids"] is True
    assert "stop" not in body


def test_what_the_models_makers_recommend_is_left_out_and_not_refused() -> None:
    check(SamplingParams(top_k=20), TEXT, {"top_k": 20})
    assert "top_k" not in body_of(SamplingParams(top_k=20), [1], TEXT)
    with pytest.raises(VLLMValidationError, match="top_k"):
        check(SamplingParams(top_k=21), TEXT, {"top_k": 20})


def test_log_probabilities_of_text_go_to_the_first_of_the_tokens_made_of_it(tokenizer: Any) -> None:
    logprobs = {"tokens": [" So the", " answer"], "token_logprobs": [-1.0, -0.5], "top_logprobs": None}
    chunk = read_chunk({"choices": [{"text": " So the answer", "logprobs": logprobs}]}, TEXT, tokenizer)
    made = tokenizer.encode(" So the", add_special_tokens=False)
    assert tokenizer.decode(chunk.ids) == " So the answer"
    assert chunk.likely is not None
    values = [value for value, _ in chunk.likely]
    assert (values[0], values[len(made)]) == (-1.0, -0.5)
    assert (sum(values), len(values)) == (-1.5, len(chunk.ids))


def test_a_character_of_several_tokens_is_whole_though_only_its_last_token_is_told() -> None:
    class Bytes:
        """A token for each byte."""

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return list(text.encode())

        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode(errors="replace")

    beside = UpstreamAbilities("completions", "m", "llamacpp", ids_from="logprobs", logprobs=1)
    last = "é".encode()[-1]
    logprobs = {"content": [{"id": last, "logprob": -0.5, "top_logprobs": []}]}
    chunk = read_chunk({"choices": [{"text": "é", "logprobs": logprobs}]}, beside, Bytes())
    assert chunk.ids == list("é".encode())
    assert chunk.likely is not None
    assert len(chunk.likely) == 2


def test_log_probabilities_that_do_not_fit_the_text_are_kept_in_sum(tokenizer: Any) -> None:
    logprobs = {"tokens": ["bytes:\\xe2", "bytes:\\x82"], "token_logprobs": [-1.0, -0.5]}
    chunk = read_chunk({"choices": [{"text": " answer is", "logprobs": logprobs}]}, TEXT, tokenizer)
    assert chunk.likely is not None
    assert len(chunk.likely) == len(chunk.ids) > 1
    assert sum(value for value, _ in chunk.likely) == -1.5


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [{"text": 3}]},
        {"choices": ["x"]},
        {"choices": [{"text": "a"}, {"text": "b"}]},
        {"hello": 1},
    ],
)
def test_what_is_no_chunk_is_malformed(event: dict[str, Any], tokenizer: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        read_chunk(event, TEXT, tokenizer)
    assert caught.value.kind == "malformed"


def test_rows_are_those_of_vllms_engine() -> None:
    lists = as_lists([7, 8], [(-1.0, {7: -1.0, 9: -2.0}), (-5.0, {9: -0.1, 10: -3.0})])
    assert lists.logprob_token_ids.tolist() == [[7, 7, 9], [8, 9, 10]]
    assert lists.sampled_token_ranks.tolist() == [1, 3]
