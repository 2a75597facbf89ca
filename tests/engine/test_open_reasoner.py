"""A Reasoner on a server that runs already, asked by commands."""

from contextlib import aclosing
from typing import Any

import pytest
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr import reference
from drr.engine.open_reasoner import ServedCompletions, load_tokenizer
from drr.engine.upstream.probe import completions
from drr.errors import InputError
from tests.engine.upstream.played import PlayedUpstream

SAID = "So the answer is 36."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(reference.reasoner_folder()), "--tokenizer")


async def asked(played: PlayedUpstream, **options: Any) -> list[RequestOutput]:
    client = played.client(retries=0)
    abilities = await completions(client, {"id": "m", "owned_by": played.dialect}, played.tokenizer, False)
    assert abilities is not None
    params = SamplingParams(temperature=0.0, max_tokens=50, logprobs=0, **options)
    generate = ServedCompletions(client, abilities, played.tokenizer).generate
    async with aclosing(generate(tokens_input([5, 6]), params, "one")) as outputs:
        return [output async for output in outputs]


@pytest.mark.parametrize("dialect", ["vllm", "llamacpp", "openai"])
async def test_every_dialect_gives_tokens_text_and_log_probabilities(tokenizer: Any, dialect: Any) -> None:
    played = PlayedUpstream(tokenizer, lambda text: SAID, dialect)
    outputs = await asked(played, output_kind=RequestOutputKind.DELTA)
    pieces = [output.outputs[0] for output in outputs]
    ids = [token for piece in pieces for token in piece.token_ids]
    assert ids == [*tokenizer.encode(SAID, add_special_tokens=False), tokenizer.eos_token_id]
    assert "".join(piece.text for piece in pieces) == SAID
    details = [detail for piece in pieces for detail in piece.logprobs or ()]
    assert len(details) == len(ids)
    assert details[0][ids[0]].logprob == -0.5
    assert pieces[-1].finish_reason == "stop"


async def test_a_whole_answer_comes_at_once(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, lambda text: SAID)
    (output,) = await asked(played, output_kind=RequestOutputKind.FINAL_ONLY)
    assert output.outputs[0].text == SAID
    assert output.finished


async def test_a_server_that_breaks_off_is_told_of(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, lambda text: SAID)
    client = played.client(retries=0)
    abilities = await completions(client, {"id": "m"}, tokenizer, False)
    assert abilities is not None
    played.ends = False
    generate = ServedCompletions(client, abilities, tokenizer).generate
    with pytest.raises(InputError, match=r"--server: .*ended in the middle"):
        async for _ in generate(tokens_input([5, 6]), SamplingParams(max_tokens=50), "one"):
            pass
    assert client.open == 0
