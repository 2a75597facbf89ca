"""Distillation through chat completions: labels at boundaries where a thought can be handed back, else at attempts."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from drr.cli.main import main
from drr.engine.upstream.chat_probe import probe_chat
from drr.engine.upstream.http import UpstreamClient
from drr.errors import InputError
from drr.learn.chat_distill import distill_chat
from drr.learn.distill_config import DistillConfig
from drr.learn.records import Manifest, Rollout, read_rollouts
from drr.tasks import Question
from tests.upstream.vendors import MODEL, DeepSeek, Fault, OpenAI, Said, Vendor, in_turn, listening

QUESTION = Question("What is 17 + 4?", "21", "", 0)
THOUGHT = "Seventeen and four.\n\nThat is 21.\n\nSure."
RIGHT, WRONG = Said(THOUGHT, "The answer is 21."), Said("Hm.", "The answer is 22.")


async def distilled(vendor: Vendor, out: Path, **sampling: Any) -> tuple[Manifest, list[Rollout]]:
    async with listening(vendor) as address:
        client = UpstreamClient(address + vendor.path.removesuffix("/chat/completions"))
        try:
            abilities = await probe_chat(client, MODEL)
            vendor.bodies.clear()
            config = DistillConfig(rollouts=2, extra_rollouts=1, max_tokens=64, answer_tokens=16, grader="text")
            manifest = await distill_chat(client, abilities, MODEL, [QUESTION], out, config, sampling)
        finally:
            await client.aclose()
    return manifest, read_rollouts(out)


async def test_of_whole_answers_the_attempts_are_labelled(tmp_path: Path) -> None:
    vendor = OpenAI(in_turn(RIGHT, WRONG))
    manifest, rollouts = await distilled(vendor, tmp_path / "records")
    assert manifest.settings["chat"] == {"tier": "opaque", "labels_at": "attempts", "step_tokens": "words"}
    assert manifest.settings["temperature"] is None
    assert len(rollouts) == 3  # outcomes are mixed
    assert sorted(rollout.later for rollout in rollouts) == [False, False, True]
    for rollout in rollouts:
        assert rollout.steps == [f"The answer is {rollout.answer}."]  # the thinking is hidden
        assert rollout.now == [rollout.later]
        assert rollout.total_tokens > rollout.thinking_tokens
    assert all("temperature" not in body and body["max_completion_tokens"] == 64 for body in vendor.bodies)


async def test_where_a_thought_can_be_handed_back_every_boundary_is_labelled(tmp_path: Path) -> None:
    vendor = DeepSeek(in_turn(RIGHT))
    script = vendor.script

    def by_thought(body: Any, number: int) -> Said:
        last = body["messages"][-1]
        known = "21" in (last.get("reasoning_content") or "21")
        return script(body, number) if known or "stone" in str(body) else Said("", "No idea.")

    vendor.script = by_thought
    manifest, rollouts = await distilled(vendor, tmp_path / "records", temperature=0.5)
    assert manifest.settings["chat"]["labels_at"] == "boundaries"
    assert manifest.settings["temperature"] == 0.5
    assert len(rollouts) == 2
    assert rollouts[0].steps == ["Seventeen and four.\n\n", "That is 21.\n\n", "Sure."]
    assert rollouts[0].now == [False, True, True]
    assert rollouts[0].forced == ["No idea.", "21", "21"]
    thoughts = [body["messages"][-1].get("reasoning_content") for body in vendor.bodies]
    assert thoughts.count("Seventeen and four.\n\nThat is 21.\n\n") == 2


async def test_a_cut_answer_is_asked_for_again_and_a_server_that_goes_away_is_said(tmp_path: Path) -> None:
    vendor = OpenAI(in_turn(RIGHT))
    vendor.faults = deque([Fault(), Fault(), Fault(cut=True)])  # behind the probe's two
    _, rollouts = await distilled(vendor, tmp_path / "cut")
    assert len(rollouts) == 2
    vendor.faults = deque([Fault(), Fault(), *[Fault(status=400)] * 4])
    with pytest.raises(InputError, match=r"--server: the upstream answered 400: .*start again"):
        await distilled(vendor, tmp_path / "gone")


def test_options_that_chat_cannot_honour_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["distill", "q.jsonl", "--out", str(tmp_path / "r"), "--server", "http://127.0.0.1:9/v1", "--chat"]
    for option in (["--tokenizer", "x"], ["--top-k", "5"], ["--seed", "3"], ["--answer-cue", "So"]):
        assert main([*asked, *option]) != 0
        assert f"{option[0]}: is not for --chat" in capsys.readouterr().err
