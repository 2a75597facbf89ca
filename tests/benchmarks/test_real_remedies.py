"""Remedies: each learns from what it says it learns from, and all are measured at the same ends of attempts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.real import inner_states
from benchmarks.real.inner_states import InnerStates, question_ids, read_inner_states
from benchmarks.real.remedies import AS_TRAINED, at_ends, beside_others, joined, remedies
from benchmarks.real.skill import Attempts
from benchmarks.real.skill_tables import remedies_table
from drr import reference
from drr.learn.records import Rollout
from drr.learn.states import BoundaryStates, attempt_key
from tests.benchmarks.test_real_skill import CONFIG, SIZE, attempts
from tests.fakes import rollout_of

ASKED_SIZE = 4


def noise(made: Attempts, size: int, seed: int) -> BoundaryStates:
    rng = np.random.default_rng(seed)
    return BoundaryStates(
        {
            attempt_key(one): torch.tensor(rng.normal(size=(len(one.steps), size)), dtype=torch.float32)
            for one in made.rollouts
        }
    )


def telling(made: Attempts, where: str) -> InnerStates:
    """Inner states of which only one tells: a layer by its number, or what stands behind the question."""
    right = {attempt_key(one): 4.0 * one.later - 2 for one in made.rollouts}
    layers = {number: noise(made, SIZE, number) for number in (1, 2, 3)}
    asked = {key: states[-1:, :ASKED_SIZE].clone() for key, states in noise(made, SIZE, 9).by_key.items()}
    for key, sign in right.items():
        found = asked[key] if where == "asked" else layers[int(where)].by_key[key]
        found[:, 0] += sign
    return InnerStates(layers, BoundaryStates(asked))


@pytest.mark.parametrize(
    ("where", "better"),
    [
        ("asked", {"asked whether it is right", "end and asked"}),
        pytest.param("1", {"state of layer 1", "states of all these layers"}, marks=pytest.mark.slow),
    ],
)
def test_a_remedy_knows_what_its_own_states_tell(where: str, better: set[str]) -> None:
    train, test = (attempts({"sums": "words"}, 40, seed) for seed in (1, 2))
    found = remedies(train, test, lambda one: telling(one, where), CONFIG)
    within = {name: one["within_question_last"]["auroc"] for name, one in found.items()}
    assert {name for name, auroc in within.items() if auroc > 0.8} == better
    for name in better:
        low, _ = found[name]["gained"]["within_question_last"]["interval"]
        assert low > 0
    assert found[AS_TRAINED]["gained"] == {}
    assert "| state of layer 1 |" in remedies_table(found)


def test_fewer_attempts_and_another_lesson_are_heads_of_their_own() -> None:
    train, test = (attempts({"sums": 3}, 30, seed, noise=1.5) for seed in (1, 2))
    found = remedies(train, test, lambda one: telling(one, "1"), CONFIG)
    ends = {
        str(found[name]["last"]) for name in found if "attempts at" in name or "ranks" in name or name == AS_TRAINED
    }
    assert len(ends) == 5


def test_a_joined_attempt_has_one_boundary_its_end() -> None:
    rollout = rollout_of(["a\n\n", "b\n\n"])
    rollout = replace(rollout, now=[True, False], forced=["1", "2"], logprobs=[[-1.0], [-2.0]], step_tokens=[1, 1])
    whole = joined(rollout)
    assert (whole.steps, whole.now, whole.forced) == (["a\n\nb\n\n"], [False], ["2"])
    assert (whole.step_tokens, whole.logprobs) == ([2], [[-1.0, -2.0]])
    assert joined(replace(rollout, logprobs=[[-1.0], None])).logprobs == [None]


def test_beside_an_end_stands_its_difference_from_the_others() -> None:
    made = at_ends(attempts({"sums": 3}, 2, 1))
    found = beside_others(made)
    first = made.rollouts[:4]
    ends = made.states.of(first)
    wanted = ends[0] - ends[1:].mean(0)
    normalised = torch.nn.functional.layer_norm(wanted, wanted.shape)
    assert torch.allclose(found.states.of(first[:1])[0, SIZE:], normalised, atol=1e-5)
    alone = beside_others(Attempts(first[:1], made.states))
    assert torch.equal(alone.states.of(first[:1])[0, SIZE:], torch.zeros(SIZE))


def some_rollouts() -> list[Rollout]:
    rollouts = []
    for number, steps in enumerate(([3, 2], [4], [1, 1, 2])):
        rollout = rollout_of(["x\n\n"] * len(steps))
        rollout.step_tokens, rollout.prompt_ids = steps, [5, 6, 7 + number]
        rollout.thought_ids = list(range(20, 20 + sum(steps)))
        rollouts.append(rollout)
    return rollouts


def test_inner_states_are_those_of_one_pass_over_each_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rollouts = str(reference.reasoner_folder()), some_rollouts()
    found = read_inner_states(rollouts, folder, "float32", tmp_path / "inner" / "some.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).base_model.eval()
    depth = model.config.num_hidden_layers
    assert list(found.layers)[-1] == depth
    assert len(found.layers) > 1
    question = question_ids(AutoTokenizer.from_pretrained(folder))
    for rollout in rollouts:
        ids = [*(rollout.prompt_ids or ()), *(rollout.thought_ids or ())]
        ends = [len(rollout.prompt_ids or ()) + end - 1 for end in np.cumsum(rollout.step_tokens)]
        with torch.inference_mode():
            alone = model(torch.tensor([ids]), output_hidden_states=True)
            asked = model(torch.tensor([ids + question])).last_hidden_state[0, -1:]
        for layer, states in found.layers.items():
            assert torch.allclose(states.of([rollout]), alone.hidden_states[layer][0, ends], atol=1e-4)
        assert torch.allclose(found.layers[depth].of([rollout]), alone.last_hidden_state[0, ends], atol=1e-4)
        assert torch.allclose(found.asked.of([rollout]), asked, atol=1e-4)
    monkeypatch.setattr(inner_states, "load_layers", lambda *_: pytest.fail("computed again"))
    again = read_inner_states(rollouts, folder, "float32", tmp_path / "inner" / "some.safetensors")
    assert torch.equal(again.asked.of(rollouts), found.asked.of(rollouts))
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        read_inner_states(rollouts[:2], folder, "float32", tmp_path / "inner" / "some.safetensors")


def test_the_question_stands_in_turns_of_its_own() -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    text = tokenizer.decode(question_ids(tokenizer))
    assert inner_states.ASKED in text
    assert not text.startswith(inner_states.ASKED)
    assert not text.endswith(inner_states.ASKED)
