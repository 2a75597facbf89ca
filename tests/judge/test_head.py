"""The fusion head of every kind: what it reads, what it refuses, and files from before there were kinds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from drr import reference
from drr.errors import InputError
from drr.judge.dm_folder import CARD_NAME, HEAD_NAME, STATE_HEAD_NAME, DmCard, dm_state, load_dm_head
from drr.judge.head import JUDGE_LOGITS, FusionHead, Kind, input_names, load_head, save_head
from drr.loop.features import FEATURE_NAMES

KINDS: tuple[Kind, ...] = get_args(Kind)


def head_of(kind: Kind) -> FusionHead:
    """A random head: four hidden units, every weight matters."""
    rng = np.random.default_rng(0)
    inputs, logits = len(input_names(kind)), len(JUDGE_LOGITS[kind])
    return FusionHead(
        kind,
        mean=np.zeros(inputs),
        scale=np.ones(inputs),
        hidden=rng.normal(size=(4, inputs)),
        hidden_bias=rng.normal(size=4),
        out=rng.normal(size=(2, 4)),
        out_bias=rng.normal(size=2),
        temperature=np.asarray([1.5, 2.0]),
        judge_weight=rng.normal(size=(2, logits)),
        judge_bias=rng.normal(size=2),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_every_kind_survives_its_file(kind: Kind, tmp_path: Path) -> None:
    head, logits = head_of(kind), [0.5, -0.25, 0.125, 1.0][: len(JUDGE_LOGITS[kind])]
    save_head(head, tmp_path / HEAD_NAME)
    again = load_head(tmp_path / HEAD_NAME)
    assert again.kind == kind
    assert again.reads_behaviour
    for features in (None, [0.1] * len(FEATURE_NAMES)):
        assert again.score(logits, features) == head.score(logits, features)
    with pytest.raises(ValueError, match=f"kind {kind} reads {len(logits)} logits, not 3"):
        head.score(logits[:1] * 3, None)


@pytest.mark.parametrize("kind", KINDS)
def test_without_features_the_logits_are_used_alone(kind: Kind) -> None:
    logits = np.asarray([[0.5, -0.25, 0.125, 1.0][: len(JUDGE_LOGITS[kind])]])
    head = head_of(kind)
    expected = 1 / (1 + np.exp(-(logits @ head.judge_weight.T + head.judge_bias)[0]))
    score = head.score(logits[0].tolist(), None)
    assert (score.p_now, score.p_later) == pytest.approx(tuple(expected))
    features = slice(len(JUDGE_LOGITS[kind]), None)
    silent = np.zeros_like(head.hidden[:, features])
    alone = replace(head, hidden=np.concatenate([head.hidden[:, : features.start], silent], axis=1))
    assert not alone.reads_behaviour


def test_the_order_of_a_fused_head_is_text_then_state_then_behaviour() -> None:
    assert input_names("fused") == ("logit_now", "logit_later", "state_now", "state_later", *FEATURE_NAMES)
    assert input_names("text") == ("logit_now", "logit_later", *FEATURE_NAMES)
    assert input_names("head") == ("state_now", "state_later", *FEATURE_NAMES)


def test_a_file_from_before_there_were_kinds_is_a_text_head() -> None:
    saved = head_of("text").to_json()
    del saved["judge_weight"], saved["judge_bias"]
    head = FusionHead.from_json({**saved, "text_temperature": [2.0, 4.0], "text_bias": [0.5, -0.5]})
    assert head.kind == "text"
    assert head.judged(np.asarray([[1.0, 2.0]])).tolist() == [[1.0, 0.0]]
    assert load_dm_head(reference.dm_folder()).kind == "text"
    with pytest.raises(ValueError, match="cannot be read: 'judge_weight'"):
        FusionHead.from_json(saved)


def test_a_card_says_the_kind_and_the_head_must_be_of_it(tmp_path: Path) -> None:
    card = DmCard("a-dm", "f", "a-reasoner", "blank_line", 0.9, kind="head")
    card.save(tmp_path)
    save_head(head_of("head"), tmp_path / HEAD_NAME)
    assert DmCard.load(tmp_path) == card
    assert load_dm_head(tmp_path).kind == "head"
    replace(card, kind="fused").save(tmp_path)
    with pytest.raises(InputError, match=r"field inputs: is of a DM of kind head, drr\.json says fused"):
        load_dm_head(tmp_path)
    replace(card, kind="prm").save(tmp_path)
    with pytest.raises(InputError, match="field kind: must be text, head, fused, not prm"):
        DmCard.load(tmp_path)
    without = json.loads((tmp_path / CARD_NAME).read_text())
    del without["kind"]
    (tmp_path / CARD_NAME).write_text(json.dumps(without))
    assert DmCard.load(tmp_path).kind == "text"


def test_another_state_head_is_another_dm(tmp_path: Path) -> None:
    DmCard("a-dm", "f", "a-reasoner", "blank_line", 0.9, kind="head").save(tmp_path)
    save_head(head_of("head"), tmp_path / HEAD_NAME)
    states = set()
    for weights in (b"one", b"two"):
        (tmp_path / STATE_HEAD_NAME).write_bytes(weights)
        states.add(dm_state(tmp_path))
    assert len(states) == 2


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *((name, bad, name) for name in ("mean", "hidden", "out_bias", "judge_weight") for bad in (np.nan, np.inf)),
        ("scale", 0.0, "scale"),
        ("temperature", -1.0, "temperature"),
    ],
)
def test_a_head_with_what_is_no_number_is_refused(name: str, value: float, says: str, tmp_path: Path) -> None:
    head = head_of("fused")
    weight = getattr(head, name).copy()
    weight.flat[-1] = value
    (tmp_path / HEAD_NAME).write_text(json.dumps(replace(head, **{name: weight}).to_json()))
    with pytest.raises(InputError, match=f"{says} of the DM's head holds"):
        load_dm_head(tmp_path)


@pytest.mark.parametrize("name", ["mean", "hidden", "out", "temperature", "judge_bias"])
def test_a_head_whose_parts_do_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    head = head_of("head")
    (tmp_path / HEAD_NAME).write_text(json.dumps({**head.to_json(), name: getattr(head, name)[:-1].tolist()}))
    with pytest.raises(InputError, match=f"{name} of the DM's head has the shape"):
        load_dm_head(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_no_score(bad: float) -> None:
    head = head_of("text")
    for features in (None, [0.1] * len(FEATURE_NAMES)):
        with pytest.raises(ValueError, match="give no score"):
            head.score([bad, 0.5], features)
