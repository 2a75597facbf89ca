"""Where a DM's skill comes from: every signal is found by the part that reads it, and by no other; heads know only what
they were trained on; intervals are over questions."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.real import intervals, signals, skill
from benchmarks.real.intervals import Scored, differences, draws, figures, resampled_auroc, resampled_within
from benchmarks.real.signals import fit_regression, mean_embeddings, read_embeddings
from benchmarks.real.skill import Attempts, learning_curve, parts, subset, transfer
from drr.errors import InputError
from drr.judge.dm_folder import TRAINED_ON_NAME, DmCard
from drr.learn import judging
from drr.learn.boundaries import Boundaries, flatten
from drr.learn.dm_metrics import auroc, baselines, within_question_auroc
from drr.learn.fusion import fit_head
from drr.learn.records import Manifest, Rollout, question_key, write_shard
from drr.learn.state_config import StateConfig
from drr.learn.states import STATES_NAME, BoundaryStates, _keep, attempt_key
from tests.fakes import rollout_of

SIZE, STEPS, ATTEMPTS = 12, 3, 4
CONFIG = StateConfig(epochs=10, questions=8, hidden=4, members=2, learning_rate=2e-2)
RIGHT_WORD, WRONG_WORD, FIRST_NUMBER = 7, 8, 9

Telling = dict[str, str | int]
"""By family, what tells whether an attempt is right: the column of its states, or `words` or `logprobs`."""


def attempts(telling: Telling, questions: int, seed: int, noise: float = 0.5) -> Attempts:
    """So many questions of every family, four attempts at each; all else but what tells is the same for right and
    wrong."""
    rng = np.random.default_rng(seed)
    rollouts, by_key = [], {}
    for number in range(questions * ATTEMPTS):
        for family, sign in telling.items():
            right = bool(rng.random() < 0.5)
            rollout = rollout_of(["so\n\n"] * STEPS)
            rollout.question, rollout.family = f"{family} {seed}/{number // ATTEMPTS}", family
            rollout.sample, rollout.later, rollout.now = number % ATTEMPTS, right, [right] * STEPS
            said, sure = (right if sign == part else bool(rng.random() < 0.5) for part in ("words", "logprobs"))
            # The second token tells the attempt from all others.
            rollout.prompt_ids = [1, FIRST_NUMBER + len(rollouts)]
            rollout.thought_ids = [RIGHT_WORD if said else WRONG_WORD, 3, 4] * STEPS
            rollout.logprobs = [[sure - 2.0 + 0.2 * float(rng.normal())] * 3 for _ in range(STEPS)]
            state = rng.normal(0, 1.0, (STEPS, SIZE))
            if isinstance(sign, int):
                state[:, sign] = 2 * right - 1 + rng.normal(0, noise, STEPS)
            by_key[attempt_key(rollout)] = torch.tensor(state, dtype=torch.float32)
            rollouts.append(rollout)
    return Attempts(rollouts, BoundaryStates(by_key))


def without_logprobs(made: Attempts) -> Attempts:
    """Heads over these are calibrated states, which takes no time."""
    for rollout in made.rollouts:
        rollout.logprobs = [None] * STEPS
    return made


@pytest.fixture
def text_dm(tmp_path: Path) -> Path:
    """The card of a DM of kind text; what it says is for `says_who_is_right` to make up."""
    folder = tmp_path / "text-dm"
    folder.mkdir()
    DmCard("text", "f", "r", "blank_line", 0.9, max_tokens=64).save(folder)
    (folder / TRAINED_ON_NAME).write_text("")
    return folder


def says_who_is_right(family: str, rollouts: Sequence[Rollout], *_: object) -> Boundaries:
    """Logits of a text classifier that can read one family only."""
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(STEPS, 2)) + 3 * (2 * one.later - 1) * (one.family == family) for one in rollouts]
    return flatten(rollouts, logits)


def reasoner_with(table: torch.Tensor, folder: Path) -> str:
    folder.mkdir()
    save_file({"model.norm.weight": torch.ones(SIZE)}, folder / "model-00001-of-00002.safetensors")
    save_file({"model.embed_tokens.weight": table}, folder / "model-00002-of-00002.safetensors")
    return str(folder)


def test_every_signal_is_found_by_the_part_that_reads_it(
    tmp_path: Path, text_dm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "score_boundaries", partial(says_who_is_right, "read"))
    for module in (judging, skill):
        monkeypatch.setattr(module, "fit_head", partial(fit_head, steps=250, members=6))
    telling: Telling = {"felt": 3, "read": "text", "sure": "logprobs", "worded": "words"}
    train, test = attempts(telling, 62, seed=1, noise=0.2), attempts(telling, 30, seed=2, noise=0.2)
    table = torch.randn(1024, SIZE, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = parts(train, test, text_dm=text_dm, reasoner=reasoner_with(table, tmp_path / "reasoner"), config=CONFIG)

    finds = {
        "state": {"felt"},
        "text": {"read"},
        "behaviour": {"sure"},
        "log-probability": {"sure"},
        "embeddings": {"worded"},
        "head": {"felt", "sure"},
        "fused": {"felt", "read", "sure"},
    }
    assert set(found["parts"]) == set(finds)
    for part, families in finds.items():
        by_family = {name: one["all"]["auroc"] for name, one in found["parts"][part]["families"].items()}
        assert {name for name, value in by_family.items() if value > 0.65} == families, (part, by_family)
        assert found["parts"][part]["all"]["all"]["boundaries"] == 4 * 30 * ATTEMPTS * STEPS
        assert found["parts"][part]["families"]["felt"]["questions"] == 30
    assert found["against_head"]["fused"]["all"]["interval"][0] > 0
    against = found["parts"]["head"]["all"]["all"]["auroc"]
    for part, gained in found["against_head"].items():
        assert gained["all"]["difference"] == pytest.approx(
            found["parts"][part]["all"]["all"]["auroc"] - against, abs=2e-4
        )
    assert set(found["against_head"]) == {*finds} - {"head"}
    assert found["questions"] == {"test": 4 * 30, "trained": 4 * 62}
    assert json.loads(json.dumps(found)) == found


def test_without_a_second_model_and_probabilities_there_is_the_state() -> None:
    train, test = (without_logprobs(attempts({"felt": 3}, 60, seed)) for seed in (1, 2))
    found = parts(train, test, config=CONFIG)
    assert set(found["parts"]) == {"state"}
    assert found["parts"]["state"]["all"]["last"]["auroc"] > 0.9


def test_confidence_is_what_the_baselines_measure() -> None:
    train, test = (attempts({"sure": "logprobs"}, 30, seed) for seed in (1, 2))
    fitting, tested = (flatten(one.rollouts, [np.zeros((STEPS, 2))] * len(one.rollouts)) for one in (train, test))
    scores = signals.by_confidence(fitting, tested)
    assert scores is not None
    expected = baselines(fitting, tested)["reasoner_confidence"]
    assert auroc(scores, tested.now) == pytest.approx(expected["auroc"], abs=1e-4)


def test_a_head_transfers_only_what_other_families_share() -> None:
    telling: Telling = {"apples": 3, "pears": 3, "stones": 7}
    train, test = (without_logprobs(attempts(telling, count, seed)) for count, seed in ((40, 1), (30, 2)))
    found = transfer(train, test, config=CONFIG)
    assert list(found) == ["apples", "pears", "stones"]
    stones, apples = found["stones"], found["apples"]
    assert 0.4 < stones["others"]["all"]["auroc"] < 0.6
    assert stones["alone"]["all"]["auroc"] > 0.9
    assert stones["all"]["all"]["auroc"] > 0.7
    assert apples["others"]["all"]["auroc"] > 0.8
    assert stones["gained"]["all"]["all"]["interval"][1] < 0
    assert stones["questions"] == {"others": 80, "all": 120, "alone": 40}
    assert {stones[name]["all"]["boundaries"] for name in ("others", "all", "alone")} == {30 * ATTEMPTS * STEPS}
    assert json.loads(json.dumps(found)) == found


def test_a_learning_curve_has_nested_subsets_of_the_right_size(monkeypatch: pytest.MonkeyPatch) -> None:
    telling: Telling = {"apples": 3, "pears": 3}
    train = without_logprobs(attempts(telling, 100, seed=1, noise=2.0))
    test = without_logprobs(attempts(telling, 30, seed=2, noise=2.0))
    trained_on: list[set[str]] = []
    seeds = []
    train_head = skill.train_state_head

    def watched(rollouts: Sequence[Rollout], *arguments: Any) -> Any:
        trained_on.append({rollout.identity for rollout in rollouts})
        assert len(rollouts) == ATTEMPTS * len(trained_on[-1])
        seeds.append(arguments[-1].seed)
        return train_head(rollouts, *arguments)

    monkeypatch.setattr(skill, "train_state_head", watched)
    curve = learning_curve(train, test, sizes=(120, 40, 200, 1000), seeds=(0, 1), config=CONFIG)
    assert [point["questions"] for point in curve] == [40, 120, 200]
    assert [len(questions) for questions in trained_on] == [40, 40, 120, 120, 200]
    assert [run["seed"] for run in curve[0]["runs"]] == [0, 1]
    assert seeds == [run["seed"] for point in curve for run in point["runs"]] == [0, 1, 0, 1, 0]
    for seed in (0, 1):
        assert trained_on[seed] < trained_on[2 + seed] < trained_on[4]
    assert trained_on[0] != trained_on[1]
    assert {name.split()[0] for name in trained_on[0]} == {"apples", "pears"}
    for point in curve:
        assert len(point["mean"]) == 4
        for name, value in point["mean"].items():
            assert point["range"][name][0] <= value <= point["range"][name][1]
    assert curve[0]["mean"]["all"] < curve[-1]["mean"]["all"]
    assert json.loads(json.dumps(curve)) == curve


def test_a_subset_takes_whole_questions_however_they_are_spelled() -> None:
    made = attempts({"apples": 3}, 30, seed=1).rollouts
    made[0].question = made[0].question.upper()
    assert subset(made, 30, 0) == list(made)
    for count in (1, 10, 29):
        chosen = subset(made, count, 0)
        assert len({rollout.identity for rollout in chosen}) == count
        assert len(chosen) == count * ATTEMPTS


def test_what_was_trained_on_tests_nothing(text_dm: Path) -> None:
    train, test = (without_logprobs(attempts({"apples": 3, "pears": 3}, 40, seed)) for seed in (1, 2))
    for measure in (parts, transfer, learning_curve):
        with pytest.raises(InputError, match="80 test questions are among those that train"):
            measure(train, train, config=CONFIG)  # type: ignore[operator]
    (text_dm / TRAINED_ON_NAME).write_text(question_key(test.rollouts[0].question))
    with pytest.raises(InputError, match="was trained on 1 test questions"):
        parts(train, test, text_dm=text_dm, config=CONFIG)
    DmCard("head", "f", "r", "blank_line", 0.9, kind="head").save(text_dm)
    with pytest.raises(InputError, match="has no text classifier"):
        parts(train, test, text_dm=text_dm, config=CONFIG)
    few = [rollout for rollout in train.rollouts if rollout.question.endswith("/0")]
    with pytest.raises(InputError, match="hold 2 questions to train on; 20 are needed"):
        parts(Attempts(few, train.states), test, config=CONFIG)
    with pytest.raises(InputError, match="hold one family"):
        transfer(attempts({"apples": 3}, 4, seed=3), test)


def test_records_are_read_with_the_states_that_are_kept(tmp_path: Path) -> None:
    made = attempts({"apples": 3}, 2, seed=1)
    empty = rollout_of([])
    write_shard(tmp_path / "0.parquet", [*made.rollouts, empty])
    settings = {"reasoner": {"name": "r", "fingerprint": "f"}, "step_rule": "blank_line"}
    Manifest(settings, complete=True).save(tmp_path)
    with pytest.raises(InputError, match="--reasoner: is needed"):
        Attempts.load(tmp_path)
    _keep(made.states.of(made.rollouts), tmp_path / STATES_NAME / "f", tmp_path / "0.parquet")
    found = Attempts.load(tmp_path)
    assert len(found.rollouts) == len(made.rollouts)
    assert torch.equal(found.states.of(found.rollouts), made.states.of(made.rollouts))
    Manifest(settings).save(tmp_path)
    with pytest.raises(InputError, match="is not complete"):
        Attempts.load(tmp_path)


def test_embeddings_are_averaged_up_to_each_boundary(tmp_path: Path) -> None:
    table = torch.arange(40.0).reshape(10, 4)
    rollout = rollout_of(["a", "b"])
    rollout.prompt_ids, rollout.thought_ids, rollout.step_tokens = [1, 2], [3, 4, 9], [1, 2]
    found = mean_embeddings([rollout], table)
    assert np.allclose(found, [table[[1, 2, 3]].mean(0), table[[1, 2, 3, 4, 9]].mean(0)])
    wide = torch.randn(10, SIZE)
    assert torch.equal(read_embeddings(reasoner_with(wide, tmp_path / "sharded")), wide)
    rollout.prompt_ids = None
    with pytest.raises(InputError, match="hold no token ids"):
        mean_embeddings([rollout], table)
    with pytest.raises(InputError, match="has no safetensors file with"):
        read_embeddings(str(tmp_path))
    (tmp_path / "sharded" / "model-00001-of-00002.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        read_embeddings(str(tmp_path / "sharded"))


def test_a_regression_is_penalised_as_much_as_other_questions_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_STRENGTHS", (1e-4, 1.0))
    table = torch.randn(1024, SIZE, generator=torch.Generator().manual_seed(0))
    strengths = []
    for sign in ("words", "nothing"):
        made = attempts({"family": sign}, 40, seed=1).rollouts
        data = skill.split_for_training(made, 1.0)
        strengths.append(fit_regression(data, table).named_steps["logisticregression"].C)
    assert strengths == [1.0, 1e-4]


def scored(questions: int, seed: int = 0, copies: int = 1) -> Scored:
    """Scores with ties that tell labels a little; `copies` of every attempt."""
    rng = np.random.default_rng(seed)
    rollouts: list[Rollout] = []
    scores: list[float] = []
    for number in range(questions):
        ease = rng.normal()
        for _ in range(ATTEMPTS):
            rollout = rollout_of(["so"] * STEPS)
            rollout.question, rollout.answer = f"{number}", str(rng.integers(3))
            rollout.later = bool(rng.random() < 1 / (1 + np.exp(-ease)))
            rollout.now = [rollout.later] * STEPS
            noise = [round(float(ease + rollout.later + rng.normal()), 1) for _ in range(STEPS)]
            rollouts += [rollout] * copies
            scores += noise * copies
    data = flatten(rollouts, [np.zeros((STEPS, 2))] * len(rollouts))
    return Scored(1 / (1 + np.exp(-np.asarray(scores))), data, rollouts)


def width(edges: list[float]) -> float:
    return edges[1] - edges[0]


def test_intervals_hold_the_figure_and_shrink_with_questions_only() -> None:
    few, many, copied = (figures(one) for one in (scored(60), scored(540), scored(60, copies=4)))
    for found in (few, many, copied):
        for name in ("all", "last", "within_question_last"):
            low, high = found[name]["interval"]
            assert low < found[name]["auroc"] < high
        for name, (low, high) in found["best_of"]["intervals"].items():
            assert low <= found["best_of"][name] <= high
    for name in ("all", "last"):
        assert width(many[name]["interval"]) < width(few[name]["interval"]) / 2
        assert width(copied[name]["interval"]) > 0.9 * width(few[name]["interval"])
    assert few["questions"] == 60
    assert "by_step" not in few
    gain = few["best_of"]["over_majority"]
    assert gain["difference"] == pytest.approx(few["best_of"]["by_score"] - few["best_of"]["majority"], abs=2e-4)
    assert gain["interval"][0] <= gain["difference"] <= gain["interval"][1]


def test_a_resample_is_what_its_questions_give() -> None:
    one = scored(25)
    question = one.question[one.data.rollout]
    drawn = np.stack([*draws(25)[:2], np.zeros(25, dtype=np.int64)])
    found = resampled_auroc(one.scores, one.data.now, question, drawn)
    within = resampled_within(one.scores, one.data.now, question, drawn)
    assert set(drawn[0]) == {1}
    assert drawn[1].sum() == 25 < 25 * drawn[1].max()
    for row in range(2):
        times = drawn[row][question]
        scores, labels = np.repeat(one.scores, times), np.repeat(one.data.now, times)
        copy = np.concatenate([np.arange(count) for count in times])
        owners = [f"{name}/{number}" for name, number in zip(np.repeat(question, times), copy, strict=True)]
        assert found[row] == pytest.approx(auroc(scores, labels))
        assert within[row] == pytest.approx(within_question_auroc(scores, labels, owners)[0])
    assert np.isnan(found[2])
    assert np.isnan(within[2])


def test_many_boundaries_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    one = scored(25)
    whole = figures(one)
    monkeypatch.setattr(intervals, "_CHUNK", 1000)
    assert figures(one) == whole


def test_differences_are_paired() -> None:
    one = scored(200)
    better = Scored(0.7 * one.scores + 0.3 * one.data.now, one.data, one.rollouts)
    found = differences(better, one)["all"]
    apart = width(figures(one)["all"]["interval"]) + width(figures(better)["all"]["interval"])
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    assert found["interval"][0] > 0
    assert width(found["interval"]) < apart
    with pytest.raises(ValueError, match="other boundaries"):
        differences(one, scored(20))


def test_without_two_labels_there_is_no_interval() -> None:
    one = scored(10)
    right = Scored(one.scores, flatten([rollout_of(["so"] * STEPS)] * 40, [np.zeros((STEPS, 2))] * 40), one.rollouts)
    found = figures(right)
    assert found["all"]["auroc"] is found["all"]["interval"] is None
    assert differences(right, right) == {}


def test_a_family_is_measured_as_if_it_were_alone() -> None:
    made = without_logprobs(attempts({"apples": 3, "pears": 3}, 10, seed=1))
    data = flatten(made.rollouts, [np.zeros((STEPS, 2))] * len(made.rollouts))
    scores = np.random.default_rng(0).random(len(data.now))
    pears = [rollout for rollout in made.rollouts if rollout.family == "pears"]
    own = np.asarray([made.rollouts[owner].family == "pears" for owner in data.rollout])
    alone = Scored(scores[own], flatten(pears, [np.zeros((STEPS, 2))] * len(pears)), pears)
    assert figures(Scored(scores, data, made.rollouts).by_family()["pears"]) == figures(alone)
