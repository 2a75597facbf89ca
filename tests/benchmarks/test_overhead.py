"""The parts of the comparison with raw vLLM: random models, judging step by step, and recorded results."""

import contextlib
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM

from benchmarks import beside_vllm
from benchmarks.load_client import Run, Sample, Target
from benchmarks.overhead import HALFWAY, _against_stepwise, _halfway, judged_by, section
from benchmarks.random_models import Size, make_dm, make_head, make_reasoner
from benchmarks.stepwise import StepwiseLoop
from drr.engine.state_head import StateHead
from drr.judge.dm_folder import STATE_HEAD_NAME, DmCard, fingerprint, load_dm_head
from drr.loop.policy import PolicySettings
from drr.loop.response import Emit, Finished, LoopSettings, StepReport
from drr.loop.steps import StepRule
from server.schema import DrrRequest
from tests.fakes import OPEN, PROMPT, FakeReasoner, FakeScorer

BY_TEXT = judged_by("text")
TINY = Size(hidden=64, layers=2, heads=2, key_heads=1, feed_forward=128)


def test_a_random_reasoner_never_ends(tmp_path: Path) -> None:
    make_reasoner(tmp_path / "reasoner", TINY)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reasoner")
    model = Qwen2ForCausalLM.from_pretrained(tmp_path / "reasoner")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], add_generation_prompt=True)
    with torch.no_grad():
        logits = model(torch.tensor([prompt["input_ids"]])).logits[0].softmax(-1)
    never = [*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(["<think>", "</think>"])]
    assert float(logits[:, never].max()) < 1e-12
    assert float(logits.max()) < 0.5, "everything else is drawn from many"


def test_a_random_dm_may_judge_that_reasoner(tmp_path: Path) -> None:
    make_reasoner(tmp_path / "reasoner", TINY)
    make_dm(tmp_path / "dm", tmp_path / "reasoner", "tokens:20", TINY)
    DmCard.load(tmp_path / "dm").check(fingerprint(tmp_path / "reasoner"), StepRule.parse("tokens:20"))
    load_dm_head(tmp_path / "dm")
    make_head(tmp_path / "head", tmp_path / "reasoner", "tokens:20", TINY)
    card = DmCard.load(tmp_path / "head")
    card.check(fingerprint(tmp_path / "reasoner"), StepRule.parse("tokens:20"))
    assert card.kind == load_dm_head(tmp_path / "head").kind == "head"
    assert StateHead.load(tmp_path / "head" / STATE_HEAD_NAME).size == TINY.hidden


async def test_step_by_step_asks_anew_for_every_step_and_waits_for_its_verdict() -> None:
    reasoner = FakeReasoner(("a", "b", "c"), rethought=("d", "e", "f"))
    scorer = FakeScorer([0.5], delay=0.01)
    settings = LoopSettings(PolicySettings(threshold=1.0, acts=False), max_tokens=8)
    loop = StepwiseLoop(reasoner, scorer, StepRule("tokens", 3), settings, [PROMPT, OPEN], "question")
    text, order = "", []
    async for event in loop.run():
        order.append(type(event))
        if isinstance(event, Emit):
            text += event.text
    assert text == "abcdefde"
    assert [segment.max_tokens for segment in reasoner.segments] == [3, 3, 2]
    assert [len(segment.ids) for segment in reasoner.segments] == [2, 5, 8]
    assert order == [*[Emit] * 3, StepReport, *[Emit] * 3, StepReport, *[Emit] * 2, Finished]
    assert [boundary.text for boundary in scorer.seen] == ["abc", "def"]
    assert reasoner.running == 0


def run_of(target: str, tokens: Sequence[int], seconds: float) -> Run:
    return Run(target, "2 clients", seconds, [Sample(0.0, 0.1, 1.0, tokens=count) for count in tokens])


def test_step_by_step_is_compared_pair_by_pair() -> None:
    runs = [
        run_of("raw vLLM", [10, 10], 1.0),
        run_of(BY_TEXT, [10, 10], 2.0),
        run_of("step by step", [10, 10], 4.0),
        run_of(BY_TEXT, [10, 10], 1.0),
        run_of("step by step", [10, 10], 1.0),
    ]
    assert _against_stepwise(runs) == [2.0, 1.0]


def test_half_way_stops_after_half_of_the_boundaries_with_a_step_of_answer() -> None:
    halfway = _halfway(Target(BY_TEXT, "http://drr", "m", {"drr": {"mode": "shadow"}}), 10, 40)
    assert halfway.name == HALFWAY
    assert halfway.url == "http://drr"
    assert halfway.body["max_tokens"] == 240
    settings = DrrRequest.model_validate(halfway.body["drr"])
    assert (settings.max_steps, settings.answer_tokens) == (5, 40)


async def test_what_is_measured_again_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    async def measure(options: Namespace, cores: beside_vllm.Cores | None) -> AsyncIterator[beside_vllm.Measured]:
        for clients, figure in options.found:
            yield {"clients": clients, "figure": figure}
            if figure == 0:
                raise RuntimeError("a server died")

    async def record(*found: tuple[int, int]) -> list[tuple[int, int]]:
        options = Namespace(out=tmp_path, split=False, found=found)
        with contextlib.suppress(RuntimeError):
            await beside_vllm._record(options, measure, lambda result: (result["clients"],))
        return [(result["clients"], result["figure"]) for result in beside_vllm.read_results(tmp_path)]

    assert beside_vllm.read_results(tmp_path) == []
    assert await record((48, 1), (1, 2), (16, 3)) == [(1, 2), (16, 3), (48, 1)]
    assert await record((16, 4)) == [(1, 2), (16, 4), (48, 1)]
    assert await record((8, 0), (1, 9)) == [(1, 2), (8, 0), (16, 4), (48, 1)], "what was found before an error is kept"


def test_the_section_says_what_was_measured() -> None:
    ratio = {"median": 0.987, "least": 0.9, "greatest": 1.1}
    ratios: dict[str, Any] = dict.fromkeys(("tokens_per_second", "ttft_p95", "itl_p95", "e2e_p95"), ratio)
    measured = {
        "machine": "x, 2 cores",
        "cores": {"reasoner": 1, "rest": 1},
        "parameters": {"reasoner": 28_000_000, "text": 950_000},
        "step_tokens": 20,
        "boundaries": 10,
        "clients": 16,
        "pairs": 5,
        "dm_tokens_computed_per_token": 1.234,
        "ratios": {BY_TEXT: ratios},
        "runs": {"raw vLLM": [{"stolen": 0.0}, {"stolen": 0.1}], BY_TEXT: [{"stolen": 0.5}]},
        "against_stepwise": [1.2, 1.5, 1.3],
    }
    parameters = {"reasoner": 6_500_000_000, "text": 600_000_000, "head": 2_000_000}
    larger = {**measured, "parameters": parameters, "clients": 48}
    larger["runs"] = {"raw vLLM": [{}], BY_TEXT: [{"stolen": 0.5}]}
    text = section([larger, measured])
    assert "a Reasoner of 6500.0 and a head of 2.00 and a text classifier of 600.00 million" in text
    assert text.count("| boundaries |") == 2, "a table for each pair of models"
    smaller = text.index("28.0 and a text classifier of 0.95")
    assert text.index("| 10 | 48 | 5 |") < smaller < text.index("| 10 | 16 | 5 |")
    assert f"| 10 | 16 | 5 | {BY_TEXT} | 0.987 (0.900 to 1.100) |" in text
    assert "| 10 % (0 % to 50 %) |" in text
    assert text.count("| ? |") == 1, "where it was not recorded"
    assert "1.23 at 10 boundaries and 16 clients" in text
    assert "1.30 at 16 clients" in text
