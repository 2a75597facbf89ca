"""The state head: it learns what states tell, is one plain head however many were averaged, and is repeatable."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from drr.engine.state_head import StateHead
from drr.errors import InputError
from drr.learn import train_state
from drr.learn.dm_metrics import auroc
from drr.learn.records import Rollout
from drr.learn.state_config import StateConfig
from drr.learn.states import BoundaryStates
from drr.learn.train_state import state_logits, train_state_head
from tests.fakes import rollout_of

SIZE = 16
CONFIG = StateConfig(epochs=12, hidden=4, members=3, learning_rate=2e-2)


def lessons(count: int, seed: int, noise: float = 0.5) -> tuple[list[Rollout], BoundaryStates]:
    """Attempts, four at a question, whose states tell `now` and `later` from two directions of their space."""
    rng = np.random.default_rng(seed)
    rollouts, by_key = [], {}
    for number in range(count):
        rollout = rollout_of(["so\n\n", "So the answer is 3.\n\n", "again\n\n"])
        rollout.question, rollout.later = f"question {seed}/{number // 4}", bool(rng.random() < 0.5)
        rollout.now = [bool(flag) for flag in rng.random(3) < 0.5]
        rollout.prompt_ids, rollout.thought_ids = [seed, number], list(range(9))
        state = rng.normal(0, 1.0, (3, SIZE))
        state[:, 3] = 2 * np.asarray(rollout.now) - 1 + rng.normal(0, noise, 3)
        state[:, 7] = 2 * rollout.later - 1 + rng.normal(0, noise, 3)
        by_key[train_state_key(rollout)] = torch.tensor(state, dtype=torch.float32)
        rollouts.append(rollout)
    return rollouts, BoundaryStates(by_key)


def train_state_key(rollout: Rollout) -> bytes:
    from drr.learn.states import attempt_key

    return attempt_key(rollout)


def test_a_head_learns_both_labels_from_states() -> None:
    (train, states), (test, test_states) = lessons(240, 1), lessons(200, 3)
    trained = train_state_head(train, states, CONFIG)
    data = state_logits(trained.head, test, test_states)
    assert data.kind == "head"
    assert auroc(data.logits[:, 0], data.now) > 0.9  # type: ignore[operator]
    assert auroc(data.logits[:, 1], data.later) > 0.9  # type: ignore[operator]
    assert (trained.figures["questions"], trained.figures["boundaries"]) == (60, 3 * 240)
    assert trained.figures["parameters"] == 2 * SIZE + 3 * 4 * (SIZE + 1) + 2 * (3 * 4 + 1)


def test_training_is_repeatable_and_seeded() -> None:
    train, states = lessons(80, 1)
    heads = [train_state_head(train, states, replace(CONFIG, epochs=2, seed=seed)).head for seed in (0, 0, 1)]
    assert torch.equal(heads[0].hidden.weight, heads[1].hidden.weight)
    assert not torch.equal(heads[0].hidden.weight, heads[2].hidden.weight)


def test_the_average_of_the_members_is_one_head() -> None:
    torch.manual_seed(0)
    members = train_state._Members(SIZE, CONFIG).eval()
    states, mean, scale = torch.randn(5, SIZE) * 3 + 1, torch.randn(SIZE), torch.rand(SIZE) + 0.5
    normed = functional.layer_norm(states, (SIZE,))
    expected = members((normed - mean) / scale).mean(1)
    head = members.averaged(mean, scale)
    assert isinstance(head, StateHead)
    assert torch.allclose(head(states), expected, atol=1e-5)


def test_training_ends_early_when_nothing_is_gained() -> None:
    train, states = lessons(120, 1, noise=100.0)
    figures = train_state_head(train, states, replace(CONFIG, patience=2)).figures
    assert figures["epochs"] == figures["best_epoch"] + 2 < CONFIG.epochs


def test_unseen_logits_come_from_members_that_do_not_know_the_question() -> None:
    train, states = lessons(12, 1)
    data, members = train_state._lessons(train, states), train_state._Members(SIZE, CONFIG)
    with torch.no_grad():
        members.out.zero_()
        members.out_bias.copy_(torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]))
    drawn = torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 1.0], [3.0, 0.0, 2.0]])
    found = train_state._unseen_logits(members, data, drawn)
    assert found[:12].eq(torch.tensor([2.5, 25.0])).all()
    assert found[12:24].isnan().all(), "every member was trained on the second question"
    assert found[24:].eq(torch.tensor([2.0, 20.0])).all()


def test_unseen_logits_of_some_of_the_rollouts() -> None:
    train, states = lessons(80, 1)
    trained = train_state_head(train, states, replace(CONFIG, epochs=2, members=2))
    assert not trained.unseen.judged.all(), "of two members, both may have seen a question"
    some = [replace(train[30]), train[3]]
    found, rows = trained.unseen_of(some), [90, 91, 92, 9, 10, 11]
    assert np.array_equal(found.logits, trained.unseen.logits[rows], equal_nan=True)
    assert found.now.tolist() == trained.unseen.now[rows].tolist()
    assert found.rollout.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(KeyError):
        trained.unseen_of(lessons(4, 2)[0])


def test_states_that_are_no_numbers_teach_nothing() -> None:
    train, states = lessons(80, 1)
    broken = BoundaryStates({key: torch.full_like(found, float("nan")) for key, found in states.by_key.items()})
    with pytest.raises(InputError, match="the loss of the state head is no number"):
        train_state_head(train, broken, CONFIG)


def test_ungraded_boundaries_teach_nothing_about_now() -> None:
    train, states = lessons(80, 1)
    changed = [replace(rollout, now=[None, *rollout.now[1:]]) for rollout in train]
    opposite = train_state._lessons(changed, states)
    assert opposite.weights[::3, 0].sum() == 0
    assert opposite.weights[::3, 1].sum() == len(train)
    head = train_state_head(changed, states, replace(CONFIG, epochs=1)).head
    assert all(bool(weight.isfinite().all()) for weight in head.state_dict().values())


@pytest.mark.parametrize(("option", "value"), [("epochs", 0), ("learning_rate", -1.0), ("patience", 0), ("seed", -1)])
def test_settings_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}"):
        StateConfig(**{option: value})  # type: ignore[arg-type]


def test_ranking_brings_right_above_wrong_attempts_at_one_question() -> None:
    train, states = ranked(160, 1)
    lessons_of, rows, drawn = train_state._lessons(train, states), np.arange(160), torch.ones(160, 1)
    losses = []
    for weight in (0.0, 8.0):
        head = train_state_head(train, states, replace(CONFIG, ranking=weight, patience=12)).head
        logits = torch.tensor(state_logits(head, train, states).logits[:, :1], dtype=torch.float32)
        losses.append(float(train_state._ranking_loss(logits, lessons_of, rows, drawn)))
    assert losses[1] < losses[0] - 0.02


def ranked(count: int, seed: int) -> tuple[list[Rollout], BoundaryStates]:
    """Half of the questions are easy, which the states tell loudly; which attempt is right, they tell softly."""
    rng = np.random.default_rng(seed)
    rollouts, by_key = [], {}
    for number in range(count):
        easy = (number // 4) % 2
        right = bool(rng.random() < (0.8 if easy else 0.2))
        rollout = rollout_of(["so the answer is 3."])
        rollout.question, rollout.later, rollout.now = f"question {seed}/{number // 4}", right, [right]
        rollout.prompt_ids, rollout.thought_ids = [seed, number], list(range(len(rollout.step_tokens) * 3))
        state = rng.normal(0, 1.0, (1, SIZE))
        state[:, 3] = 4 * easy - 2
        state[:, 7] = 1.0 * right + rng.normal(0, 1.0)
        by_key[train_state_key(rollout)] = torch.tensor(state, dtype=torch.float32)
        rollouts.append(rollout)
    return rollouts, BoundaryStates(by_key)


def test_ranking_compares_nothing_across_questions_or_kinds() -> None:
    train, states = ranked(8, 1)
    lessons_of = train_state._lessons(train, states)
    rows = np.arange(8)
    logits = torch.zeros(8, 1)
    right = lessons_of.labels[:, 0] > 0.5
    logits[right] = 3.0
    drawn = torch.ones(8, 1)
    ordered = train_state._ranking_loss(logits, lessons_of, rows, drawn)
    assert ordered == pytest.approx(float(functional.softplus(torch.tensor(-3.0))))
    shifted = logits + torch.tensor(lessons_of.question)[:, None] * 100.0
    assert train_state._ranking_loss(shifted, lessons_of, rows, drawn) == pytest.approx(float(ordered))
    only = drawn * (torch.tensor(lessons_of.question) == -1)[:, None]
    assert train_state._ranking_loss(logits, lessons_of, rows, only) == 0
