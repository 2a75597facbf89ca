"""What a key may use: a bucket that fills by the minute, and requests at once."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from server.admission.api_keys import ApiKey, KeyLimits
from server.admission.counting import counted
from server.admission.shares import Share, Shares


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_fills_by_the_minute() -> None:
    clock = Clock()
    share = Share("bob", KeyLimits(tokens=600), clock)
    assert share.refusal() is None
    share.use(900)  # what it would use was not known before
    refusal = share.refusal()
    assert refusal is not None
    assert (refusal.status, refusal.kind, refusal.code) == (429, "tokens", "rate_limit_exceeded")
    assert refusal.headers["retry-after"] == "31"  # 300 too many and one to begin with, at 10 a second
    clock.now = 30.0
    assert share.refusal() is not None
    clock.now = 31.0
    assert share.refusal() is None
    clock.now = 1000.0
    assert share.headers()["x-ratelimit-remaining-tokens"] == "600"


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 100)), max_size=30))
def test_nobody_uses_more_than_bucket_and_time_give(moves: list[tuple[int, float]]) -> None:
    clock = Clock()
    share = Share("bob", KeyLimits(tokens=100), clock)
    used = 0
    for tokens, seconds in moves:
        clock.now += seconds
        if share.refusal() is None:
            assert used <= 100 + clock.now * 100 / 60 + 1e-6
            used += tokens
            share.use(tokens)


def test_limits_that_change_keep_what_was_used() -> None:
    shares = Shares()
    share = shares.of(ApiKey.of("bob", "k", KeyLimits(tokens=100)))
    share.use(150)
    assert shares.of(ApiKey.of("bob", "k", KeyLimits(tokens=120))) is share
    assert share.left() < -29
    share = shares.of(ApiKey.of("bob", "k", KeyLimits(running=1)))
    assert share.refusal() is None
    share.running = 1
    assert share.refusal() is not None


async def test_tokens_are_counted_whatever_the_kind_of_output_and_end() -> None:
    def output(*parts: tuple[int, int]) -> Any:
        completions = [CompletionOutput(index, "", list(range(count)), None, None) for index, count in parts]
        return RequestOutput("r", None, [1, 2, 3], None, completions, False)

    async def made(outputs: list[Any]) -> Any:
        for one in outputs:
            yield one

    for kind, outputs, expected in (
        (RequestOutputKind.DELTA, [output((0, 2)), output((1, 4)), output((0, 5))], 11),
        (RequestOutputKind.CUMULATIVE, [output((0, 2)), output((1, 4)), output((0, 5))], 9),
        (RequestOutputKind.FINAL_ONLY, [output((0, 5), (1, 4))], 9),
    ):
        for with_prompt in (True, False):
            share = Share("bob", KeyLimits(tokens=1000), Clock())
            async for _ in counted(made(outputs), share, kind, with_prompt=with_prompt):
                pass
            assert share.left() == 1000 - expected - 3 * with_prompt
    share = Share("bob", KeyLimits(tokens=1000), Clock())
    stream = counted(made([output((0, 2)), output((0, 5))]), share, RequestOutputKind.DELTA, with_prompt=True)
    await anext(stream)
    await stream.aclose()
    assert share.left() == 1000 - 2 - 3
