"""Certified thresholds: tests are exact, their order is fixed beforehand, and the promise is kept on new questions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from drr.certify.calibrate import (
    ACCEPTS,
    GIVE_UPS,
    CalibrationData,
    by_rollout,
    calibration_of,
    certify_all,
    split_for_calibration,
)
from drr.certify.replay import Replay, candidate_rules
from drr.certify.thresholds import (
    DELTA,
    certify,
    choose_default,
    choose_rethink,
    drift_histogram,
    order_rules,
    questions_needed,
)
from drr.errors import InputError
from drr.judge.calibration import Calibration, Certificate
from drr.judge.drift import DRIFT_LIMIT, LEAST_RESPONSES, DriftWatch, stability_index
from drr.learn.boundaries import flatten
from drr.learn.records import Manifest, Rollout, question_key
from drr.loop.policy import Score, Verdict, decide
from drr.loop.rule import Rule
from tests.fakes import rollout_of

PROBABILITIES = st.floats(0.0, 1.0).map(lambda value: round(value, 2))


def population(questions: int, seed: int, samples: int = 1) -> tuple[list[Rollout], list[np.ndarray]]:
    """Attempts of 12 steps whose answer becomes right at a random step (or never); scores know roughly when."""
    rng = np.random.default_rng(seed)
    rollouts, scores = [], []
    for question in range(questions):
        for sample in range(samples):
            rollout = rollout_of(["step\n\n"] * 12)
            rollout.question, rollout.sample = f"question {seed}/{question}", sample
            ready = int(rng.integers(0, 16))
            rollout.now = [step >= ready for step in range(12)]
            rollout.later = bool(rollout.now[-1])
            logit = 3.0 * np.sign(np.arange(12) - ready + 0.5) + rng.normal(0, 1.5, 12)
            later = 2.0 * (1 if rollout.later else -1) + rng.normal(0, 1.0, 12)
            scores.append(np.stack([1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-later))], axis=1))
            rollouts.append(rollout)
    return rollouts, scores


@settings(max_examples=200)
@given(
    scores=st.lists(st.tuples(PROBABILITIES, PROBABILITIES), min_size=1, max_size=8),
    right=st.lists(st.booleans(), min_size=8, max_size=8),
    rule=st.builds(
        Rule,
        st.none() | PROBABILITIES,
        st.integers(1, 3),
        st.none() | PROBABILITIES,
        st.none() | st.floats(-1.0, 1.0).map(lambda value: round(value, 2)),
    ),
    cut_off=st.booleans(),
)
def test_replay_stops_where_the_policy_would(
    scores: list[tuple[float, float]], right: list[bool], rule: Rule, cut_off: bool
) -> None:
    rollout = rollout_of(["a\n\n"] * len(scores))
    if cut_off:  # by a budget, in a step that never ended
        rollout.thinking_tokens, rollout.total_tokens = rollout.thinking_tokens + 2, rollout.total_tokens + 2
    rollout.now, rollout.later = list(right[: len(scores)]), right[-1]
    seen = [Score(now, later) for now, later in scores]
    at = next(
        (i for i in range(len(seen)) if decide(rule.settings(), seen[: i + 1]).verdict is Verdict.STOP), len(seen)
    )
    outcomes = Replay([rollout], [np.asarray(scores)]).outcomes(rule)
    if at < len(seen) - (not cut_off):
        assert outcomes.right.tolist() == [rollout.now[at]]
        assert outcomes.tokens.tolist() == [3 * (at + 1) + 9]
    else:
        assert (outcomes.right.tolist(), outcomes.tokens.tolist()) == ([rollout.later], [rollout.total_tokens])


@settings(max_examples=200)
@given(
    attempts=st.lists(
        st.tuples(st.lists(st.tuples(PROBABILITIES, PROBABILITIES), min_size=1, max_size=6), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    rule=st.builds(Rule, st.none() | PROBABILITIES, st.integers(1, 3), st.none() | PROBABILITIES, st.none()),
    accept=PROBABILITIES,
)
def test_replayed_attempts_are_rejected_where_the_policy_would(
    attempts: list[tuple[list[tuple[float, float]], bool]], rule: Rule, accept: float
) -> None:
    policy = replace(rule.settings(), accept=accept)
    rollouts, scores = [], []
    for number, (attempt, right) in enumerate(attempts):
        rollout = rollout_of(["a\n\n"] * len(attempt))
        rollout.sample, rollout.now, rollout.later = number, [right] * len(attempt), right
        rollouts.append(rollout)
        scores.append(np.asarray(attempt))
    tokens, best, outcome = 0, (-1.0, False), None
    for attempt, right in attempts:
        seen = [Score(now, later) for now, later in attempt]
        ends = len(attempt) - 1
        for at in range(len(attempt)):
            verdict = decide(policy, seen[: at + 1], closing=at == ends).verdict
            if verdict in (Verdict.STOP, Verdict.RETHINK) or at == ends:
                break
        tokens += 3 * (at + 1)
        if verdict is not Verdict.RETHINK:
            outcome = right
            break
        best = max(best, (seen[at].p_now, right), key=lambda scored: scored[0])
    found = Replay(rollouts, scores).attempts(rule).think_again(accept, len(attempts))
    assert found.right.tolist() == [best[1] if outcome is None else outcome]
    assert found.tokens.tolist() == [tokens + 9]


def test_the_rule_for_thinking_again_is_accurate_first_and_cheap_second() -> None:
    rollouts, scores = population(400, 11, samples=3)
    replay, never = Replay(rollouts, scores), Rule(None)
    found = choose_rethink(replay, [never, Rule(0.9), Rule(0.6)], [0.2, 0.5, 0.8], [0.1, 0.3])
    assert found is not None
    assert found["attempts"] == 3
    tried = [
        replay.attempts(rule).think_again(accept, 3)
        for rule in (never, Rule(0.9), Rule(0.6))
        for accept in (0.2, 0.5, 0.8)
    ]
    assert found["accuracy"] >= max(outcome.right.mean() for outcome in tried) - 0.006
    once = replay.table([never])
    assert found["accuracy"] > once.full_right.mean() + 0.1
    as_accurate = [outcome.tokens.mean() for outcome in tried if outcome.right.mean() >= found["accuracy"]]
    assert found["tokens"] <= min(as_accurate, default=np.inf) + 0.1
    assert choose_rethink(Replay(*population(40, 3)), [never], [0.5], [0.1]) is None


def test_thinking_again_saves_tokens_only_as_far_as_the_questions_tell() -> None:
    never, rules, accepts = Rule(None), [Rule(None), Rule(0.9), Rule(0.6)], [0.2, 0.5, 0.8, 1.0]
    few, many = (Replay(*population(count, 11, samples=3)) for count in (40, 3000))
    chosen = {count: choose_rethink(replay, rules, accepts, []) for count, replay in (("few", few), ("many", many))}
    saved = {}
    for name, replay in (("few", few), ("many", many)):
        found = chosen[name]
        assert found is not None
        tried = [replay.attempts(rule).think_again(accept, 3) for rule in rules for accept in accepts]
        best = max(outcome.right.mean() for outcome in tried)
        assert found["accuracy"] >= best - 0.01
        saved[name] = 1 - found["tokens"] / replay.attempts(never).think_again(1.0, 3).tokens.mean()
    assert saved["many"] > 0.1
    assert saved["few"] < saved["many"], "forty questions cannot tell a point"


def test_a_judge_that_costs_more_than_it_saves_still_has_a_default() -> None:
    rollouts, scores = population(60, 4)
    costly = Replay(rollouts, scores, [[1000] * 12 for _ in rollouts]).table([Rule(0.3), Rule(None)])
    assert costly.saved.max() < 0
    order = order_rules(costly, costly.lost)
    assert [costly.rules[index] for index in order] == [Rule(None)]
    assert choose_default(costly, order, 1.0) == (order[0], True)


def test_a_judge_that_costs_tokens_can_still_promise_to_lose_nothing() -> None:
    rollouts, scores = population(500, 4)
    rules = [Rule(level) for level in (0.3, 0.6, 0.9)] + [Rule(None)]
    costly = Replay(rollouts, scores, [[1] * 12 for _ in rollouts]).table(rules)
    assert costly.saved[3] < 0 < costly.saved[0]
    order = order_rules(costly, costly.lost)
    assert costly.rules[order[0]] == Rule(None)
    certificates, _ = certify_all(costly, order, (0.01, 0.1))
    assert [certificate.max_lost_correct for certificate in certificates] == [0.01, 0.1]


def test_a_judge_that_can_wait_is_asked_at_the_end_where_nothing_ends_an_attempt_before() -> None:
    rollouts, scores = population(30, 6)
    probes = [list(range(1, 13)) for _ in rollouts]
    for rule, waits, differs in ((Rule(None), 12, True), (Rule(None, hopeless=-1.0), 78, False)):
        patient, asked = (
            Replay(rollouts, scores, probes, needs_no_steps=needs_no_steps).attempts(rule)
            for needs_no_steps in (True, False)
        )
        free = Replay(rollouts, scores).attempts(rule)
        assert set(patient.thought - free.thought) == {waits}
        assert set(asked.thought - free.thought) == {78}
        assert (set(patient.thought) != set(asked.thought)) is differs


def test_the_smallest_test_that_can_certify() -> None:
    for risk in (0.005, 0.01, 0.02, 0.05, 0.1):
        needed = questions_needed(risk)
        assert binom.cdf(0, needed, risk) <= DELTA < binom.cdf(0, needed - 1, risk)
    assert questions_needed(0.01) == 299


def test_certified_rules_keep_their_promise_on_new_questions() -> None:
    """Over 200 calibrations the true risk of the certified rule is above epsilon in no more than 5 % (here: 16)."""
    rules = candidate_rules()[::7]
    true_risk = dict(zip(rules, Replay(*population(20_000, 999)).table(rules).lost_rate, strict=True))
    broken = certified = 0
    for seed in range(200):
        ordering = Replay(*population(60, 2 * seed)).table(rules)
        order = order_rules(ordering, ordering.lost)
        found = certify(Replay(*population(300, 2 * seed + 1)).table(rules), order, 0.05)
        certified += found is not None
        broken += found is not None and true_risk[found.rule] > 0.05
    assert certified >= 150
    assert broken <= binom.ppf(0.99, 200, DELTA)


def test_a_rule_that_loses_too_much_ends_the_sequence() -> None:
    never, always = Rule(1.0), Rule(0.0)
    table = Replay(*population(400, 5)).table([never, always])
    found = certify(table, [0, 1, 0], 0.05)
    assert found is not None
    assert (found.rule, found.lost) == (never, 0)
    assert certify(table, [1, 0], 0.05) is None


def test_every_question_counts_once() -> None:
    rollouts, scores = population(80, 3, samples=4)
    found = certify(Replay(rollouts, scores).table([Rule(1.0)]), [0], 0.1)
    assert found is not None
    assert found.right == sum(rollout.later for rollout in rollouts if rollout.sample == 0)


def test_the_order_goes_from_little_to_much_saved() -> None:
    table = Replay(*population(300, 1)).table(candidate_rules())
    order = order_rules(table, table.lost)
    assert len(order) > 5
    saved, lost = table.saved[order].tolist(), table.lost[order].tolist()
    assert saved[0] < 0.2
    assert saved[-1] > 0.4
    assert lost == sorted(lost)


def test_too_few_questions_are_refused_with_the_number_needed() -> None:
    table = Replay(*population(150, 1)).table(candidate_rules()[::7])
    certificates, refused = certify_all(table, order_rules(table, table.lost), (0.01, 0.1))
    assert "needs at least 299" in refused["0.01"]
    assert [certificate.max_lost_correct for certificate in certificates] == [0.1]


def test_the_default_rule_keeps_its_promise_on_new_questions() -> None:
    """Over 100 calibrations the true loss of the default rule is above two points in no more than 5 % (here: 9)."""
    rules = candidate_rules()[::7]
    truly = Replay(*population(20_000, 999)).table(rules).accuracy_change
    broken, saved = 0, []
    for seed in range(100):
        ordering = Replay(*population(100, 2 * seed)).table(rules)
        table = Replay(*population(500, 2 * seed + 1)).table(rules)
        chosen, kept = choose_default(table, order_rules(ordering, -ordering.accuracy_change), 2.0)
        broken += kept and truly[chosen] < -2.0
        saved.append(table.saved[chosen])
    assert broken <= binom.ppf(0.99, 100, DELTA)
    assert np.mean(saved) > 0.2


def test_the_safest_rule_is_the_default_where_none_loses_little_enough() -> None:
    table = Replay(*population(500, 1, samples=2)).table([Rule(0.0), Rule(0.1)])
    assert choose_default(table, [1, 0], 1.0) == (1, False)


def test_replay_needs_graded_boundaries() -> None:
    rollout = rollout_of(["a", "b"])
    rollout.now = [None, True]
    with pytest.raises(InputError, match="nothing to replay"):
        Replay([rollout], [np.zeros((2, 2))])


def test_calibration_questions_are_new_and_used_once() -> None:
    rollouts, _ = population(400, 8, samples=2)
    trained = {question_key(rollout.question) for rollout in rollouts[:200]}
    data = split_for_calibration(rollouts, trained)
    parts = [{rollout.question for rollout in part} for part in (data.temperature, data.order, data.test)]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts)) == 300
    assert not {question_key(question) for question in set.union(*parts)} & trained


def test_spellings_of_one_question_are_one_question() -> None:
    rollouts, scores = population(3, 5, samples=20)
    for number, rollout in enumerate(rollouts):
        rollout.question = rollout.question.upper().replace(" ", " " * (1 + number % 20))
    replay = Replay(rollouts, scores)
    table = replay.table(candidate_rules()[:1])
    assert len(table.first_of_each_question()) == 3
    calibration, _ = calibration_of(
        replay,
        replay,
        [Rule(None), Rule(0.9)],
        ACCEPTS,
        GIVE_UPS,
        CalibrationData([], [], rollouts),
        Manifest({"labels": "gold"}),
        risks=[0.9],
        max_lost_points=1.0,
    )
    assert calibration.questions["test"] == 3
    assert calibration.right <= 3
    parts = split_for_calibration(rollouts, {question_key("question 5/0")})
    assert len({rollout.identity for part in (parts.temperature, parts.order, parts.test) for rollout in part}) == 2


def test_distinct_spellings_keep_their_numbers() -> None:
    """The order in which questions are numbered decides random splits and bootstrap samples."""
    rollouts, scores = population(30, 6, samples=2)
    numbers = np.unique([rollout.question for rollout in rollouts], return_inverse=True)[1]
    assert Replay(rollouts, scores).questions.tolist() == numbers.tolist()


def certificate(risk: float, saved: float) -> Certificate:
    return Certificate(risk, Rule(0.9, 2, 0.05, None), 1, 400, 0.01, saved, 0.2)


def calibration(*certificates: Certificate) -> Calibration:
    return Calibration(
        0.95,
        "key",
        "gold",
        {"test": 500},
        400,
        {"temperature": 0.8},
        certificates,
        {"0.005": "too few"},
        drift_histogram(np.linspace(0, 1, 1000)),
        {
            "rule": Rule(0.5).to_json(),
            "saved": 0.5,
            "max_lost_points": 1.0,
            "kept": True,
            "accuracy_change_points": -0.3,
        },
    )


def test_the_largest_saving_within_the_risk_is_chosen() -> None:
    calibrated = calibration(certificate(0.01, 0.2), certificate(0.05, 0.4))
    assert calibrated.for_risk(0.005) is None
    for risk, saved in ((0.01, 0.2), (0.03, 0.2), (0.05, 0.4), (0.5, 0.4)):
        found = calibrated.for_risk(risk)
        assert found is not None
        assert found.saved == saved
    assert calibrated.risks == [0.01, 0.05]
    again = Calibration.from_json(calibrated.to_json())
    assert again == calibrated
    with pytest.raises(InputError, match="field calibration"):
        Calibration.from_json({"certificates": []})


def test_scores_are_cut_by_rollout() -> None:
    rollouts = [rollout_of(["a"]), rollout_of(["a", "b"])]
    data = flatten(rollouts, [np.zeros((1, 2)), np.ones((2, 2))])
    assert [len(part) for part in by_rollout(np.arange(6.0).reshape(3, 2), data, 2)] == [1, 2]


def test_drift_is_seen_and_its_absence_too() -> None:
    rng = np.random.default_rng(0)
    histogram = drift_histogram(rng.beta(5, 2, 3000))
    same, other = DriftWatch(histogram), DriftWatch(histogram)
    for before, after in zip(rng.beta(5, 2, 1000), rng.beta(2, 3, 1000), strict=True):
        same.observe(before)
        other.observe(after)
    assert same.index < 0.05
    assert not same.drifted
    assert other.index > DRIFT_LIMIT
    assert other.drifted
    few = DriftWatch(histogram)
    for _ in range(LEAST_RESPONSES - 1):
        few.observe(0.0)
    assert not few.drifted
    few.observe(0.0)
    assert few.drifted
    assert stability_index([0.5, 0.5], [10, 10]) == 0.0


def test_drift_goes_by_the_newest_scores_however_many_there_were() -> None:
    rng = np.random.default_rng(0)
    histogram = drift_histogram(rng.beta(5, 2, 3000))
    windowed, whole = DriftWatch(histogram, 1000), DriftWatch(histogram)
    for value in [*rng.beta(5, 2, 20_000), *rng.beta(2, 3, 1000)]:
        windowed.observe(value)
        whole.observe(value)
    assert not whole.drifted, "a thousand new ones are lost among all"
    assert windowed.drifted
    assert windowed.responses == 1000
    for value in rng.beta(5, 2, 1000):
        windowed.observe(value)
    assert not windowed.drifted
