"""What the Reasoner's own tokens tell at a boundary."""

from drr.loop.features import FEATURE_NAMES, BehaviourFeatures


def test_features_say_what_happened() -> None:
    behaviour = BehaviourFeatures()
    first = dict(zip(FEATURE_NAMES, behaviour.close_step("1+2=3.\n\n", [-0.1, -0.9]) or [], strict=True))
    assert first["step_mean_logprob"] == first["attempt_mean_logprob"] == -0.5
    assert first["step_min_logprob"] == -0.9
    assert first["answer_stated"] == 0
    stated = dict(zip(FEATURE_NAMES, behaviour.close_step("So the answer is 3.\n\n", [0.0]) or [], strict=True))
    assert stated["answer_stated"] == 1
    assert stated["since_answer_min_logprob"] == -0.9, "the span up to and including the statement"
    again = dict(zip(FEATURE_NAMES, behaviour.close_step("So the answer is 3.\n\n", [-0.2]) or [], strict=True))
    assert again["last_answers_agree"] == 1
    assert again["since_answer_min_logprob"] == -0.2, "the span since the statement before"
    other = dict(zip(FEATURE_NAMES, behaviour.close_step("So the answer is 4.\n\n", [-0.2]) or [], strict=True))
    assert other["last_answers_agree"] == 0


def test_unknown_log_probabilities_give_no_features_from_there_on() -> None:
    behaviour = BehaviourFeatures()
    assert behaviour.close_step("a", [-0.1]) is not None
    assert behaviour.close_step("b", [None]) is None
    assert behaviour.close_step("c", [-0.1]) is None
