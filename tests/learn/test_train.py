"""The text classifier, the head, and the figures that measure them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from drr import reference
from drr.errors import InputError
from drr.judge.dm_folder import CARD_NAME, DmCard, DmMismatchError, fingerprint
from drr.judge.dm_input import DmInput
from drr.judge.head import FusionHead, input_names
from drr.learn import boundaries
from drr.learn.boundaries import Boundaries, flatten, score_boundaries
from drr.learn.dm_metrics import auroc, baselines, ece, phase_masks, score_report, within_question_auroc
from drr.learn.fusion import fit_head, probabilities, with_temperatures
from drr.learn.records import Rollout
from drr.learn.train import grow, input_limit, load_backbone, train_text_classifier
from drr.learn.train_config import TrainConfig
from drr.learn.train_data import RolloutDataset, label_weights
from drr.learn.train_folder import forget_training
from drr.learn.train_losses import ranking_loss
from drr.loop.features import FEATURE_NAMES
from drr.loop.policy import Score
from drr.loop.steps import StepRule
from drr.progress import Progress
from tests.fakes import rollout_of
from tests.tiny_models import tiny


def synthetic(count: int, seed: int) -> Boundaries:
    """Boundaries whose label depends on the text logit and on one behaviour feature, equally."""
    rng = np.random.default_rng(seed)
    text, behaviour = rng.normal(size=count), rng.normal(size=count)
    now = rng.random(count) < 1 / (1 + np.exp(-2 * (text + behaviour)))
    features = np.zeros((count, len(FEATURE_NAMES)))
    features[:, FEATURE_NAMES.index("attempt_mean_logprob")] = behaviour
    logits = np.stack([text, text], axis=1)
    zeros = np.zeros(count, dtype=np.int64)
    return Boundaries("text", logits, features, now, np.ones(count, bool), now, np.arange(count), zeros, zeros)


def questions(data: Boundaries) -> list[str]:
    return [f"question {number // 4}" for number in range(len(data.now))]


def served(head: FusionHead, data: Boundaries) -> np.ndarray:
    """[N, 2] the probabilities that serving computes, boundary by boundary."""
    scores = [
        head.score(logits.tolist(), None if np.isnan(features).any() else features.tolist())
        for logits, features in zip(data.logits, data.features, strict=True)
    ]
    return np.asarray([(score.p_now, score.p_later) for score in scores])


def test_the_fused_head_beats_both_of_its_parts_and_is_calibrated() -> None:
    train, calibration, test = synthetic(3000, 0), synthetic(2000, 1), synthetic(2000, 2)
    fused = with_temperatures(fit_head(train, questions(train), steps=200), calibration)
    alone = with_temperatures(fit_head(train, questions(train), steps=200, use=FEATURE_NAMES), calibration)
    fused_auroc = auroc(probabilities(fused, test)[:, 0], test.now)
    behaviour, text = auroc(probabilities(alone, test)[:, 0], test.now), auroc(test.logits[:, 0], test.now)
    assert fused_auroc is not None
    assert behaviour is not None
    assert text is not None
    assert fused_auroc > max(behaviour, text) + 0.05
    assert ece(probabilities(fused, test)[:, 0], test.now) < 0.05


def test_heads_survive_json_and_refuse_other_inputs() -> None:
    data = synthetic(200, 0)
    head = fit_head(data, questions(data), steps=5)
    saved = json.loads(json.dumps(head.to_json()))
    again = FusionHead.from_json(saved)
    features = [0.1] * len(FEATURE_NAMES)
    assert again.score((0.3, -0.2), features) == head.score((0.3, -0.2), features)
    text = replace(again, judge_weight=np.eye(2), judge_bias=np.zeros(2))
    assert text.score((2.0, -2.0), None) == Score(pytest.approx(0.8808, abs=1e-3), pytest.approx(0.1192, abs=1e-3))
    with pytest.raises(ValueError, match="behaviour features"):
        FusionHead.from_json({**saved, "inputs": list(input_names("text")[:-1])})


def test_within_question_auroc_compares_only_attempts_of_one_question() -> None:
    scores, labels = np.asarray([0.9, 0.1, 0.2, 0.3, 0.5]), np.asarray([True, False, False, True, True])
    value, mixed = within_question_auroc(scores, labels, ["a", "a", "b", "b", "c"])
    assert (value, mixed) == (1.0, 2)
    assert within_question_auroc(-scores, labels, ["a", "a", "b", "b", "c"])[0] == 0.0
    assert within_question_auroc(scores, labels, list("abcde")) == (None, 0)


def test_calibration_error_of_honest_and_dishonest_scores() -> None:
    rng = np.random.default_rng(0)
    honest = rng.random(20_000)
    labels = rng.random(20_000) < honest
    assert ece(honest, labels) < 0.02
    assert ece(np.full(20_000, 0.9), labels) == pytest.approx(0.4, abs=0.02)


def test_training_and_serving_compute_the_same_probabilities() -> None:
    data = synthetic(400, 0)
    data.features[::3] = np.nan
    head = with_temperatures(fit_head(data, questions(data), steps=20), data)
    assert head.reads_behaviour
    assert np.allclose(probabilities(head, data), served(head, data))


def test_without_behaviour_the_text_stands_alone_and_is_calibrated() -> None:
    data = synthetic(4000, 0)
    shifted = replace(data, features=np.full_like(data.features, np.nan), logits=2 * data.logits + 3)
    head = with_temperatures(fit_head(shifted, questions(data)), shifted)
    assert not head.reads_behaviour
    assert ece(probabilities(head, shifted)[:, 0], data.now) < 0.03
    assert np.allclose(probabilities(head, shifted), served(head, shifted))
    known = head.score((1.0, 2.0), [0.0] * len(FEATURE_NAMES))
    assert known.p_now == pytest.approx(head.score((1.0, 2.0), None).p_now, abs=1e-4)


def test_phases_are_before_first_after_and_last() -> None:
    rollouts = [rollout_of(["a", "So the answer is 3.", "b", "The answer is 3."]), rollout_of(["The answer is 4."])]
    data = flatten(rollouts, [np.zeros((4, 2)), np.zeros((1, 2))])
    masks = {phase: mask.astype(int).tolist() for phase, mask in phase_masks(data).items()}
    assert masks == {
        "before": [1, 0, 0, 0, 0],
        "first": [0, 1, 0, 0, 1],
        "after": [0, 0, 1, 1, 0],
        "last": [0, 0, 0, 1, 1],
    }


def test_reports_leave_ungraded_boundaries_out() -> None:
    rollouts = [rollout_of(["a", "b"]) for _ in range(4)]
    for number, rollout in enumerate(rollouts):
        rollout.question, rollout.later, rollout.answer = "same?", number < 2, str(number)
        rollout.now = [None, rollout.later]
    data = flatten(rollouts, [np.zeros((2, 2))] * 4)
    report = score_report(np.asarray([0.5, 0.9, 0.5, 0.8, 0.5, 0.2, 0.5, 0.1]), data, rollouts)
    assert report["all"]["boundaries"] == 4
    assert report["all"]["auroc"] == report["within_question_last"]["auroc"] == 1.0
    assert report["best_of"] == {"questions": 1, "by_score": 1.0, "random": 0.5, "majority": 0.5, "oracle": 1.0}
    assert set(report["by_step"]) == {"1"}


def test_trivial_signals_are_measured_too() -> None:
    data = synthetic(2000, 0)
    telling = replace(data, index=np.where(data.now, 3, 0).astype(np.int64))
    assert baselines(telling, telling)["step_index"]["auroc"] == 1.0
    assert baselines(data, data)["reasoner_confidence"]["auroc"] == pytest.approx(
        auroc(data.features[:, FEATURE_NAMES.index("attempt_mean_logprob")], data.now), abs=1e-4
    )
    unknown = replace(data, features=np.full_like(data.features, np.nan))
    assert "reasoner_confidence" not in baselines(unknown, unknown)


def test_pairs_of_one_question_are_ranked() -> None:
    labels = torch.tensor([[1.0], [0.0], [0.0], [-1.0]])
    kinds, group = torch.tensor([[1], [1], [1], [1]]), torch.tensor([0, 0, 1, 0])
    ordered = ranking_loss(torch.tensor([[5.0], [-5.0], [9.0], [9.0]]), labels, kinds, group)
    reversed_ = ranking_loss(torch.tensor([[-5.0], [5.0], [9.0], [9.0]]), labels, kinds, group)
    assert ordered < 0.01
    assert reversed_ > 9
    assert ranking_loss(torch.zeros(4, 1), labels, kinds * 0, group) == 0
    other_kind = torch.tensor([[1], [2], [1], [1]])
    assert ranking_loss(torch.zeros(4, 1), labels, other_kind, group) == 0


def test_labels_are_weighed_so_that_right_and_wrong_count_alike() -> None:
    rollouts = [rollout_of(["a"]) for _ in range(4)]
    rollouts[0].now, rollouts[0].later = [False], False
    weights = label_weights(rollouts, TrainConfig())
    assert weights[0] * 0.25 == pytest.approx(weights[1] * 0.75)
    assert torch.equal(label_weights(rollouts, TrainConfig(balance=False)), torch.ones(2, 2))


def lessons(count: int) -> list[Rollout]:
    """Attempts whose last step shows whether they are right."""
    rollouts = []
    for number in range(count):
        right = number % 2 == 0
        rollout = rollout_of(["Let me check.\n\n", "So 3=3.\n\n" if right else "So 3=4.\n\n"])
        rollout.question, rollout.later, rollout.now = f"What is {number // 4} + 1?", right, [False, right]
        rollouts.append(rollout)
    return rollouts


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("causal", {}),
        ("causal", {"extra_layers": 1, "behaviour": 0.5}),
        ("causal", {"extra_layers": 2, "freeze": True, "cut": 0.5}),
        ("causal", {"lora_rank": 4, "learning_rate": 2e-2}),
        ("encoder", {"boundaries_per_rollout": 2}),
    ],
)
def test_any_backbone_learns_and_is_saved_plain(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    backbone = tiny(tmp_path / "backbone", kind)
    config = TrainConfig(
        **{
            "epochs": 24.0,
            "rollouts_per_batch": 16,
            "learning_rate": 5e-3,
            "fresh_rate": 2.0,
            "patience": 99,
            **options,
        }
    )
    figures = train_text_classifier(lessons(64), lessons(16), str(backbone), tmp_path / "dm", config)
    assert figures["causal"] is (kind == "causal")
    forget_training(tmp_path / "dm")
    assert not (tmp_path / "dm" / "checkpoints").exists()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dm")
    assert model.config.num_labels == 2
    assert model.config.num_hidden_layers == 2 + options.get("extra_layers", 0)
    data = score_boundaries(lessons(40), tmp_path / "dm", 256)
    assert auroc(data.logits[data.index == 1, 0], data.now[data.index == 1]) == 1.0
    ids = DmInput(AutoTokenizer.from_pretrained(tmp_path / "dm"), "What is 0 + 1?", 256)
    for step in lessons(1)[0].steps:
        last = ids.append(step)
    with torch.inference_mode():
        alone = model.float().eval()(torch.tensor([last])).logits[0].numpy()
    assert np.allclose(data.logits[1], alone, atol=1e-3), "scored as it will be served"


@pytest.mark.parametrize(("kind", "limit"), [("encoder", 256), ("roberta", 254), ("causal", 1024)])
def test_inputs_keep_within_what_the_backbone_can_read(tmp_path: Path, kind: str, limit: int) -> None:
    model, tokenizer = load_backbone(str(tiny(tmp_path / "backbone", kind)), TrainConfig())
    assert input_limit(model, tokenizer, TrainConfig()) == limit
    longest = torch.full((1, limit), 5)
    model(longest, torch.ones_like(longest), torch.tensor([[limit - 1]]))
    tokenizer.model_max_length = 100
    assert input_limit(model, tokenizer, TrainConfig()) == 100


def test_what_an_encoder_reads_in_portions_it_reads_as_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_backbone(str(tiny(tmp_path / "backbone", "encoder")), TrainConfig())
    model.eval()
    lengths = [40, 7, 33, 40, 12, 1]
    ids = torch.randint(5, 60, (len(lengths), 40), generator=torch.Generator().manual_seed(0))
    mask = torch.stack([torch.arange(40) < length for length in lengths]).long()
    wanted = torch.cat([model.classifier(input_ids=ids[[row], :length]).logits for row, length in enumerate(lengths)])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(wanted.square().sum(), parameters, allow_unused=True)
    for at_once, portions_read in ((10_000, 1), (80, 3), (1, 6)):
        monkeypatch.setattr(boundaries, "_TOKENS_AT_ONCE", at_once)
        assert len(list(boundaries.portions(lengths, at_once))) == portions_read
        found = model(ids, mask, torch.zeros(len(lengths), 1))[0][:, 0, :]
        assert torch.allclose(found, wanted, atol=1e-5)
        again = torch.autograd.grad(found.square().sum(), parameters, allow_unused=True)
        for one, other in zip(gradients, again, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, atol=1e-4)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_portions_hold_every_row_once_and_no_more_than_allowed(lengths: list[int], tokens: int) -> None:
    found = list(boundaries.portions(lengths, tokens))
    assert sorted(row for portion in found for row in portion) == list(range(len(lengths)))
    for portion in found:
        assert len(portion) == 1 or len(portion) * max(lengths[row] for row in portion) <= tokens


def test_attention_is_trained_without_dropout(tmp_path: Path) -> None:
    model, _ = load_backbone(str(tiny(tmp_path / "backbone", "encoder")), TrainConfig())
    assert model.plain.config.attention_probs_dropout_prob == 0.0
    assert model.plain.config.hidden_dropout_prob > 0


def test_a_head_for_other_labels_is_begun_anew(tmp_path: Path) -> None:
    backbone = tiny(tmp_path / "backbone", "encoder")
    assert load_backbone(str(backbone), TrainConfig())[0].fresh == ("classifier",)
    for labels, fresh in ((5, ("classifier",)), (2, ())):
        AutoModelForSequenceClassification.from_pretrained(
            backbone, num_labels=labels, ignore_mismatched_sizes=True
        ).save_pretrained(backbone)
        model, _ = load_backbone(str(backbone), TrainConfig())
        assert model.plain.classifier.out_features == 2
        assert model.fresh == fresh


def test_freezing_leaves_the_added_layers_and_the_head_to_train(tmp_path: Path) -> None:
    backbone = str(tiny(tmp_path / "backbone", "causal"))
    model, _ = load_backbone(backbone, TrainConfig(extra_layers=2, freeze=True))
    trained = {name for name, parameter in model.plain.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in trained if "layers" in name} == {"2", "3"}
    assert {name for name in trained if "layers" not in name} == {"model.norm.weight", "score.weight"}
    with pytest.raises(InputError, match="--freeze"):
        load_backbone(backbone, TrainConfig(freeze=True))
    with pytest.raises(InputError, match="--extra-layers"):
        load_backbone(backbone, TrainConfig(extra_layers=3))


def test_a_grown_backbone_says_at_first_what_it_said_before(tmp_path: Path) -> None:
    backbone = str(tiny(tmp_path / "backbone", "causal"))
    plain, grown = (AutoModelForCausalLM.from_pretrained(backbone).eval() for _ in range(2))
    grow(grown, 2)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.equal(plain(ids).logits, grown(ids).logits)


def test_cut_rollouts_end_soon_after_their_first_answer() -> None:
    rollout = rollout_of(["a\n\n", "So the answer is 3.\n\n", *["b\n\n"] * 9])
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())

    def ends(cut: float, *, augment: bool) -> set[int]:
        config = TrainConfig(cut=cut, merge=0.0)
        data = RolloutDataset([rollout], tokenizer, config, causal=True, augment=augment)
        return {data[0][-1]["stretch"].steps[-1] for _ in range(60)}

    assert ends(1.0, augment=True) == {1, 2, 3}
    assert ends(0.5, augment=True) == {1, 2, 3, 10}
    assert ends(1.0, augment=False) == ends(0.0, augment=True) == {10}


def test_a_stopped_training_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    backbone = str(tiny(tmp_path / "backbone", "causal"))
    config = TrainConfig(
        epochs=4.0, rollouts_per_batch=16, learning_rate=1e-2, fresh_rate=1.0, evaluations_per_epoch=4, patience=99
    )
    stopped = {"seen": 0}

    class StoppedError(Exception):
        pass

    def progress(self: Progress, note: str = "", units: int = 1) -> None:
        stopped["seen"] += 1
        if stopped["seen"] == 6:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", progress)
        with pytest.raises(StoppedError):
            train_text_classifier(lessons(64), lessons(16), backbone, tmp_path / "dm", config)
    other = replace(config, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"field learning_rate: was begun with 0\.01"):
        train_text_classifier(lessons(64), lessons(16), backbone, tmp_path / "dm", other)
    with pytest.raises(InputError, match="field data"):
        train_text_classifier(lessons(60), lessons(16), backbone, tmp_path / "dm", config)
    half_written = tmp_path / "dm" / "checkpoints" / "checkpoint-9"
    half_written.mkdir()
    figures = train_text_classifier(lessons(64), lessons(16), backbone, tmp_path / "dm", config)
    assert figures["steps"] == 16
    assert figures["resumed_from"] in (4, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drr.learn.train.Trainer.train", lambda *_: pytest.fail("trained again"))
        assert train_text_classifier(lessons(64), lessons(16), backbone, tmp_path / "dm", config) == figures


def test_training_ends_early_when_nothing_is_gained(tmp_path: Path) -> None:
    backbone = str(tiny(tmp_path / "backbone", "causal"))
    contrary = lessons(16)
    for rollout in contrary:
        rollout.now = [not now for now in rollout.now]
    config = TrainConfig(
        epochs=40.0, rollouts_per_batch=16, learning_rate=1e-2, fresh_rate=1.0, patience=2, evaluations_per_epoch=1
    )
    figures = train_text_classifier(lessons(64), contrary, backbone, tmp_path / "dm", config)
    assert figures["steps"] < figures["planned_steps"]


def test_cards_say_what_they_are_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    card = DmCard("a-dm", fingerprint(tmp_path), "a-reasoner", "blank_line", 0.9)
    card.save(tmp_path)
    loaded = DmCard.load(tmp_path)
    assert loaded == card
    loaded.check(fingerprint(tmp_path), StepRule())
    with pytest.raises(DmMismatchError, match="steps by blank_line, not by sentence"):
        loaded.check(fingerprint(tmp_path), StepRule("sentence"))
    with pytest.raises(DmMismatchError, match="behaviour of a-reasoner"):
        loaded.check("other", StepRule())
    with pytest.raises(DmMismatchError, match="rendering 99"):
        DmCard("a", fingerprint(tmp_path), "r", "blank_line", 0.9, rendering=99).check(card.reasoner, StepRule())
    (tmp_path / CARD_NAME).write_text('{"id": "x", "unknown": 1}')
    with pytest.raises(InputError, match="field unknown: unknown key"):
        DmCard.load(tmp_path)
    with pytest.raises(ValueError, match="is no DM"):
        DmCard.load(tmp_path / "nowhere")
