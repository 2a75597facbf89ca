"""One client request's sampling parameters, carried over resubmissions; text decoded token by token."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.engine.vllm_probe import VllmProbe
from drr.engine.vllm_reasoner import TextDecoder, VllmReasoner, _thinking_delta, attempt_params, segment_params
from drr.loop.formats import MarkerTokens
from drr.loop.reasoner import Phase, Segment
from drr.reference.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["so: 31*3=93.\n\nSo the answer is 93.\n\n"] * 4)


def segment(phase: Phase, number: int = 0, carried: tuple[int, ...] = ()) -> Segment:
    return Segment(phase, number, [1, *carried], carried, max_tokens=50)


def test_thinking_is_not_cut_by_stop_strings_and_reports_log_probabilities() -> None:
    params = SamplingParams(stop=["."], max_tokens=100, n=2, output_kind=RequestOutputKind.FINAL_ONLY)
    thinking = segment_params(params, segment(Phase.THINK))
    assert (thinking.stop, thinking.output_text_buffer_length, thinking.logprobs) == ([], 0, 0)
    assert (thinking.n, thinking.max_tokens, thinking.output_kind) == (1, 50, RequestOutputKind.DELTA)
    answer = segment_params(params, segment(Phase.ANSWER, 1, (5,)))
    assert answer.stop == ["."]
    assert answer.logprobs is None
    assert params.stop == ["."], "the client's own parameters stay as they are"


@pytest.mark.parametrize("phase", [Phase.THINK, Phase.ANSWER])
def test_what_nobody_reads_as_it_comes_comes_in_larger_pieces(phase: Phase) -> None:
    def interval(**given: Any) -> int | None:
        return segment_params(SamplingParams(**given), segment(phase)).stream_interval

    assert interval(output_kind=RequestOutputKind.FINAL_ONLY) == 8
    assert interval(output_kind=RequestOutputKind.FINAL_ONLY, stream_interval=20) == 20
    assert interval(output_kind=RequestOutputKind.DELTA) is None
    assert interval(output_kind=RequestOutputKind.DELTA, stream_interval=3) == 3


def test_client_log_probabilities_are_kept() -> None:
    assert segment_params(SamplingParams(logprobs=3), segment(Phase.THINK)).logprobs == 3


def test_seeds_differ_between_segments_and_repeat_between_requests() -> None:
    params = SamplingParams(seed=7)
    seeds = [segment_params(params, segment(Phase.ANSWER, number, (5,))).seed for number in (0, 1, 2)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    assert seeds == [segment_params(params, segment(Phase.ANSWER, number, (5,))).seed for number in (0, 1, 2)]
    assert segment_params(SamplingParams(), segment(Phase.ANSWER, 1, (5,))).seed is None


def test_min_tokens_and_penalties_count_what_was_carried() -> None:
    params = SamplingParams(
        min_tokens=10, max_tokens=100, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={5: 1.0}
    )
    answer = segment_params(params, segment(Phase.ANSWER, 1, (5, 5, 6)))
    assert answer.min_tokens == 7
    assert answer.logit_bias == {5: 1.0 - 0.5 - 0.5, 6: -0.5 - 0.25}
    assert segment_params(params, segment(Phase.THINK)).logit_bias == {5: 1.0}
    assert segment_params(SamplingParams(), segment(Phase.ANSWER, 1, (5,))).logit_bias is None


@given(st.text(max_size=40))
def test_decoding_token_by_token_gives_the_whole_text(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    decoder = TextDecoder(TOKENIZER, TOKENIZER.encode("so:"), skip_special_tokens=True)
    assert "".join(decoder.step(token) for token in ids) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_a_character_comes_with_its_last_byte() -> None:
    ids = TOKENIZER.encode("é", add_special_tokens=False)
    decoder = TextDecoder(TOKENIZER, [], skip_special_tokens=True)
    assert [decoder.step(token) for token in ids] == [""] * (len(ids) - 1) + ["é"]


class SlowTokenizer:
    """A tokenizer without a fast core: one byte per token."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


@given(st.text(alphabet="ab é北🙂", max_size=20), st.integers(0, 20))
def test_slow_tokenizers_decode_the_same(text: str, context: int) -> None:
    decoder = TextDecoder(SlowTokenizer(), list(b"x" * context), skip_special_tokens=True)
    assert "".join(decoder.step(byte) for byte in text.encode()) == text


def test_the_end_token_adds_no_text() -> None:
    end = TOKENIZER.eos_token_id
    ids = [*TOKENIZER.encode("so"), end]
    completion = CompletionOutput(0, "", ids, None, None, finish_reason="stop")
    delta = _thinking_delta(completion, TextDecoder(TOKENIZER, [], skip_special_tokens=False), keep_stop=False)
    assert delta.text == "so"
    assert delta.tokens[-1].id == end


async def test_a_segment_that_begins_inside_a_character_adds_the_character_alone() -> None:
    ids = TOKENIZER.encode("so 🙂.", add_special_tokens=False)
    question = TOKENIZER.encode("31*3", add_special_tokens=False)

    def until(cut: int, *, start: int) -> Any:
        async def generate(prompt: Any, *_: Any, **__: Any) -> AsyncGenerator[RequestOutput, None]:
            done = CompletionOutput(0, "", ids[start:cut], None, None, finish_reason="length")
            yield RequestOutput("request", None, prompt["prompt_token_ids"], None, [done], finished=True)

        return generate

    for cut in range(1, len(ids)):
        reasoner = VllmReasoner(until(cut, start=0), TOKENIZER, {}, SamplingParams(), "request", {})
        first = [delta.text async for delta in reasoner.stream(Segment(Phase.THINK, 0, question, [], 50))]
        reasoner._generate = until(len(ids), start=cut)
        carried = Segment(Phase.THINK, 1, [*question, *ids[:cut]], ids[:cut], 50)
        rest = [delta.text async for delta in reasoner.stream(carried)]
        assert "".join(first + rest) == "so 🙂."


def test_later_attempts_have_noise_of_their_own() -> None:
    seeded = SamplingParams(temperature=0.7, seed=5)
    first, second = attempt_params(seeded, 1, 0.9), attempt_params(seeded, 2, 0.9)
    assert len({first.seed, second.seed, 5}) == 3
    assert first.temperature == seeded.temperature
    greedy = SamplingParams(temperature=0.0)
    assert attempt_params(greedy, 1, 0.9).temperature == 0.9
    again = [attempt_params(greedy, number, 0.9).seed for number in (1, 1, 2)]
    assert again[0] == again[1] != again[2], "a greedy request is answered the same every time"
    assert attempt_params(SamplingParams(temperature=0.7), 1, 0.9).seed is None
    assert greedy.temperature == 0.0


async def test_probes_are_asked_of_the_model_that_the_request_is_for() -> None:
    sent: list[dict[str, Any]] = []

    async def generate(
        prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        sent.append(options)
        token = TOKENIZER.encode("9")[0]
        done = CompletionOutput(0, "9", [token], None, [{token: Logprob(-0.5)}], finish_reason="length")
        yield RequestOutput(request_id, None, prompt["prompt_token_ids"], None, [done], finished=True)

    options = {"lora_request": "adapter", "priority": 3}
    probe = VllmProbe(
        generate, TOKENIZER, MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>"), "request", options
    )
    (answer,) = await probe.complete([5, 6], 1)
    assert (answer.text, answer.logprob, probe.tokens) == ("9", -0.5, 1)
    assert sent == [options]
