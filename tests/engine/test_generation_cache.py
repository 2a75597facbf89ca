"""Nothing is generated twice, and what comes from the cache is what the engine would have sent."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.engine.generation_cache import GenerationCache, open_cache
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.run import Evaluator, Row, evaluate, read_outcomes, recorded_settings
from drr.evaluate.strategies import FULL, all_strategies
from drr.judge.scorers.registry import training_free
from drr.learn.distill import distill
from drr.learn.distill_config import DistillConfig
from drr.learn.records import read_rollouts
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from drr.tasks.grading_pool import Grading
from tests.fake_engine import FakeEngine

ASKED = questions(3, Split.TEST, 8)
SEEDED = SamplingParams(
    temperature=0.7, seed=5, max_tokens=12, logprobs=0, detokenize=False, output_kind=RequestOutputKind.DELTA
)


class Counting:
    """Counts on from the prompt's last id, one or two tokens a chunk, until a multiple of `end` or the limit."""

    def __init__(self, end: int = 10, text: str = "") -> None:
        self.end, self.text, self.requests, self.running = end, text, 0, 0

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, **_: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.requests += 1
        self.running += 1
        named = params.logprob_token_ids or []
        try:
            last, sent, finish = prompt["prompt_token_ids"][-1], 0, None
            while finish is None:
                ids = []
                while len(ids) < 1 + (sent % 3 == 1) and finish is None:
                    last, sent = last + 1, sent + 1
                    ids.append(last)
                    finish = "stop" if last % self.end == 0 else "length" if sent == params.max_tokens else None
                told: Any = None
                if params.logprobs is not None or named:
                    told = [{one: Logprob(-0.1 * one, 1) for one in (token, *named)} for token in ids]
                completion = CompletionOutput(0, self.text, ids, None, told, finish_reason=finish, stop_reason=None)
                yield RequestOutput(
                    request_id, None, prompt["prompt_token_ids"], None, [completion], finish is not None
                )
        finally:
            self.running -= 1


def asked(cache: GenerationCache, engine: Counting, params: SamplingParams, last: int = 3, **options: Any) -> list[Any]:
    """What a request sees: ids, text, log-probabilities, finish and stop reason of every chunk."""

    async def collect() -> list[Any]:
        reasoner = replace(FakeEngine(ASKED).reasoner(), generate=engine.generate)
        stream = cache.before(reasoner).generate({"prompt_token_ids": [7, last]}, params, "r", **options)
        return [
            (one.token_ids, one.text, _told(one), one.finish_reason, one.stop_reason, output.finished)
            async for output in stream
            for one in output.outputs
        ]

    return asyncio.run(collect())


def _told(completion: CompletionOutput) -> Any:
    return completion.logprobs and [{token: one.logprob for token, one in told.items()} for told in completion.logprobs]


def changed(**fields: Any) -> SamplingParams:
    params = SEEDED.clone()
    for name, value in fields.items():
        setattr(params, name, value)
    return params


def test_a_stream_comes_back_chunk_by_chunk_also_from_a_file_that_was_closed(tmp_path: Path) -> None:
    engine = Counting()
    with open_cache(tmp_path / "deep" / "cache") as cache:
        assert cache is not None
        first = asked(cache, engine, SEEDED)
        assert (cache.hits, cache.misses) == (0, 1)
    with open_cache(tmp_path / "deep" / "cache") as cache:
        assert cache is not None
        assert asked(cache, engine, SEEDED) == first
        assert (cache.hits, cache.misses) == (1, 0)
    assert [token for ids, *_ in first for token in ids] == [4, 5, 6, 7, 8, 9, 10]
    assert {len(ids) for ids, *_ in first} == {1, 2}
    assert engine.requests == 1


@pytest.mark.parametrize(
    ("other", "options", "last"),
    [
        (changed(seed=6), {}, 3),
        (changed(temperature=0.8), {}, 3),
        (changed(top_p=0.9), {}, 3),
        (changed(min_tokens=2), {}, 3),
        (changed(logit_bias={5: 1.0}), {}, 3),
        (changed(output_kind=RequestOutputKind.FINAL_ONLY), {}, 3),
        (SEEDED, {"reasoning_ended": True}, 3),
        (SEEDED, {}, 4),
    ],
)
def test_another_request_is_generated(
    other: SamplingParams, options: dict[str, Any], last: int, tmp_path: Path
) -> None:
    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        engine = Counting()
        asked(cache, engine, SEEDED)
        asked(cache, engine, other, last, **options)
        assert engine.requests == 2


def test_a_greedy_stream_has_no_seed_and_one_without_a_seed_is_never_kept(tmp_path: Path) -> None:
    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        engine = Counting()
        for seed in (1, 2, None):
            asked(cache, engine, changed(temperature=0.0, seed=seed))
        assert engine.requests == 1
        passing = [changed(seed=None), changed(logprobs=-1), changed(max_tokens=None), changed(prompt_logprobs=1)]
        passing.append(changed(output_kind=RequestOutputKind.CUMULATIVE))
        for params in passing * 2:
            asked(cache, engine, params)
        assert engine.requests == 1 + 2 * len(passing)


@given(first=st.integers(1, 14), second=st.integers(1, 14), last=st.integers(0, 9))
def test_a_request_for_fewer_tokens_sees_what_the_engine_would_send(first: int, second: int, last: int) -> None:
    with contextlib.closing(GenerationCache(Path(":memory:"))) as cache:
        asked(cache, Counting(), changed(max_tokens=first), last)
        engine = Counting()
        found = asked(cache, engine, changed(max_tokens=second), last)
        with contextlib.closing(GenerationCache(Path(":memory:"))) as empty:
            assert found == asked(empty, Counting(), changed(max_tokens=second), last)
        whole = 10 - last
        assert bool(engine.requests) is (second > first and first < whole)


def test_a_text_is_never_divided(tmp_path: Path) -> None:
    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        engine = Counting(text="word ")
        asked(cache, engine, SEEDED)
        asked(cache, engine, changed(max_tokens=3))
        assert engine.requests == 2


def test_a_request_that_wants_to_know_more_is_generated_and_serves_those_that_want_less(tmp_path: Path) -> None:
    named = changed(logprobs=None, logprob_token_ids=[90, 91])
    with contextlib.closing(GenerationCache(tmp_path / "cache", heads="one")) as cache:
        engine = Counting()
        asked(cache, engine, SEEDED)
        first = asked(cache, engine, named)
        assert engine.requests == 2
        assert asked(cache, engine, named) == first
        for params in (SEEDED, changed(logprobs=None), changed(logprobs=None, logprob_token_ids=[91])):
            seen = asked(cache, engine, params)
            assert [ids for ids, *_ in seen] == [ids for ids, *_ in first]
            assert (seen[0][2] is None) is (params.logprobs is None and params.logprob_token_ids is None)
        assert engine.requests == 2
        asked(cache, engine, changed(logprobs=2))
        assert engine.requests == 3
    with contextlib.closing(GenerationCache(tmp_path / "cache", heads="other")) as cache:
        engine = Counting()
        asked(cache, engine, named)
        assert engine.requests == 1, "other heads say something else"


def test_another_data_type_or_reasoner_is_another_stream(tmp_path: Path) -> None:
    engine = Counting()
    for computed in ("", "bfloat16", "http://127.0.0.1:8000/v1 base", "http://127.0.0.1:8000/v1 adapter", ""):
        with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
            reasoner = replace(FakeEngine(ASKED).reasoner(), generate=engine.generate, computed=computed)
            asyncio.run(_whole(cache.before(reasoner).generate({"prompt_token_ids": [7, 3]}, SEEDED, "r")))
    assert engine.requests == 4
    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        other = replace(FakeEngine(ASKED).reasoner(), generate=engine.generate, fingerprint="other")
        stream = cache.before(other).generate({"prompt_token_ids": [7, 3]}, SEEDED, "r")
        asyncio.run(_first(stream))
    assert engine.requests == 5


async def _whole(stream: AsyncGenerator[RequestOutput, None]) -> None:
    async for _ in stream:
        pass


async def _first(stream: AsyncGenerator[RequestOutput, None]) -> None:
    async with contextlib.aclosing(stream):
        await anext(stream)


def test_a_stream_that_was_left_is_not_kept_and_frees_its_request(tmp_path: Path) -> None:
    engine = Counting()

    async def leave(cache: GenerationCache) -> None:
        reasoner = replace(FakeEngine(ASKED).reasoner(), generate=engine.generate)
        stream = cache.before(reasoner).generate({"prompt_token_ids": [7, 3]}, SEEDED, "r")
        async with contextlib.aclosing(stream):
            async for _ in stream:
                break
        assert engine.running == 0

    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        asyncio.run(leave(cache))
        asked(cache, engine, SEEDED)
        assert engine.requests == 2


def test_a_cached_attempt_thinks_no_faster_than_the_engine_judges_it(tmp_path: Path) -> None:
    """A probe of five tokens is out while the attempt goes on: it thinks about five tokens further, not to its end."""
    engine, thought, during = Counting(end=1000), list[int](), list[int]()

    async def think(generate: Any, request_id: str) -> None:
        async for output in generate({"prompt_token_ids": [7, 0]}, changed(max_tokens=60), request_id):
            thought.append(output.outputs[0].token_ids[-1])

    async def probe(generate: Any) -> None:
        params = changed(max_tokens=5, temperature=0.0)
        async for _ in generate({"prompt_token_ids": [8, 500]}, params, "eval-0-probe-0"):
            during.append(len(thought))

    async def paced(*asked: Any, **options: Any) -> AsyncGenerator[RequestOutput, None]:
        async with contextlib.aclosing(engine.generate(*asked, **options)) as outputs:
            async for output in outputs:
                await asyncio.sleep(0.02)
                yield output

    async def both(cache: GenerationCache) -> None:
        generate = cache.before(replace(FakeEngine(ASKED).reasoner(), generate=paced)).generate
        await think(generate, "eval-0")
        thought.clear()
        other = asyncio.create_task(probe(generate))
        await think(generate, "eval-0")
        await other
        assert len(thought) == whole

    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        asked(cache, engine, changed(max_tokens=60), 0)
        whole = len(asked(cache, engine, changed(max_tokens=60), 0))
        asyncio.run(both(cache))
        assert engine.requests == 2
        assert during[-1] <= len(during) + 2 < whole / 2


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and many of them\n" * 100)
    with pytest.raises(InputError, match=r"--use-cache: .*notes\.txt cannot be used"):
        GenerationCache(path)
    assert path.read_text().startswith("these are notes")
    with pytest.raises(InputError, match=r"--use-cache: .* cannot be used"):
        GenerationCache(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE streams (name TEXT)")
    with pytest.raises(InputError, match=r"--use-cache: .*other cannot be used: no such column"):
        GenerationCache(tmp_path / "other")


def rows(out: Path, engine: FakeEngine, cache: GenerationCache | None) -> dict[str, list[Row]]:
    wanted = (FULL, "4 samples", "first stated answer", "rethink: confidence, 4", "budget 32", "oracle stop")
    chosen = [one for one in all_strategies(["confidence"], {}, (4,)) if one.name in wanted]
    with Grading("auto") as grading:
        evaluator = Evaluator(engine.reasoner(), dict(training_free()), grading, EvalConfig(), cache)
        asyncio.run(evaluate(evaluator, chosen, ASKED, out, recorded_settings(EvalConfig())))
    return {outcome.name: outcome.rows for outcome in read_outcomes(out)}


def test_strategies_share_what_is_alike_and_answer_as_without_a_cache(tmp_path: Path) -> None:
    engines = [FakeEngine(ASKED) for _ in range(3)]
    plain = rows(tmp_path / "plain", engines[0], None)
    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        shared = rows(tmp_path / "shared", engines[1], cache)
        again = rows(tmp_path / "again", engines[2], cache)
    for name, found in plain.items():
        for others in (shared, again):  # what is thought while a judge judges depends on an engine's pace
            skipped = {} if name in (FULL, "4 samples", "budget 32") else {"tokens": 0}
            assert [repr(replace(row, **skipped)) for row in others[name]] == [
                repr(replace(row, **skipped)) for row in found
            ]
    assert engines[1].requests < 0.7 * engines[0].requests
    assert engines[2].requests < 0.3 * engines[1].requests, "only what was left before it ended"
    seconds = {outcome.name: outcome.seconds for outcome in read_outcomes(tmp_path / "shared")}
    assert seconds[FULL] is not None
    assert seconds["first stated answer"] is None, "nobody waited for these tokens"
    assert all(outcome.seconds is not None for outcome in read_outcomes(tmp_path / "plain"))


def test_later_attempts_are_the_samples_that_other_strategies_combine(tmp_path: Path) -> None:
    with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
        found = rows(tmp_path / "out", FakeEngine(ASKED, skill=0.4), cache)
    answers = {(row.question, row.sample): row.answer for row in found["4 samples"]}
    again = [row for row in found["rethink: confidence, 4"] if row.attempts > 1]
    assert again
    assert all(row.answer in {answers[row.question, sample] for sample in range(4)} for row in again)


def test_rollouts_come_from_the_cache_too(tmp_path: Path) -> None:
    config, engines = DistillConfig(rollouts=3), [FakeEngine(ASKED) for _ in range(2)]
    for engine in engines:
        with contextlib.closing(GenerationCache(tmp_path / "cache")) as cache:
            reasoner = cache.before(engine.reasoner())
            asyncio.run(distill(reasoner, ASKED, tmp_path / f"{id(engine)}", config))
    found = [read_rollouts(tmp_path / f"{id(engine)}") for engine in engines]
    assert found[0] == found[1]
    assert (engines[0].requests > 0, engines[1].requests) == (True, 0)
