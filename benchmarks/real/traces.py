"""What is a DM worth on recorded thinking, and what could an oracle save there?

Takes a file of finished solutions with several attempts at each question, whatever `drr distill --recorded` reads. The
solutions become behaviour records, a text DM is trained on some of the questions, and is measured on the others. No
Reasoner is run, so nothing is known of its states and probabilities, and no answer could be forced on the way: whether
an answer would be right (`now`) is known at an attempt's end only. How the attempt ends (`later`) is known throughout.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.launch import run_drr
from benchmarks.real.intervals import Scored, figures
from drr.errors import InputError
from drr.files import check_same_settings, read_json_object, write_whole
from drr.judge.dm_folder import CARD_NAME, DmCard, load_dm_head
from drr.learn.distill_folder import close_folder, shard_path
from drr.learn.fusion import probabilities
from drr.learn.judging import Judge
from drr.learn.records import MANIFEST_NAME, Manifest, Rollout, read_rollouts, share_of, write_shard
from drr.learn.train_config import TRAIN_SHARE
from drr.learn.train_folder import is_under_way
from drr.loop.stated import stated_answer
from drr.tasks.answers import number_in
from drr.tasks.grading_pool import Grading
from drr.tasks.numbers import Number
from drr.tasks.questions import folded

_SETTINGS_NAME = "traces.json"
_SALT = "traces"
"""Decides which questions train: another salt would make other figures."""


def measure_traces(
    source: Path,
    backbone: str,
    work: Path,
    *,
    step_rule: str = "blank_line",
    close: str = "",
    questions: int | None = None,
    training: Sequence[str] = (),
) -> dict[str, Any]:
    """Import `source`, train a text DM from `backbone` in the folder `work` (with more options of `drr train`), and
    measure it on questions that it was not trained on: of all, or of so many `questions`, which a hash chooses. Work
    that was stopped continues; what is done is not done again, but for the measuring.

    `later` has the figures of `p_later` for the attempt's outcome, at every boundary; `now` those of `p_now` at the
    end, with what the best of four attempts by `p_now` gets right beside the majority's answer, a random attempt and
    the best of all. `oracle` is `oracle_savings` of the same attempts, with the thinking ending at the text `close`.
    InputError if `work` was begun with something else; CalledProcessError if a command fails.
    """
    records, dm = work / "records", work / "dm"
    settings = {"backbone": backbone, "step_rule": step_rule, "asked": questions, "training": list(training)}
    _begin(work, source, settings)
    if not _is_complete(records):
        run_drr("distill", source, "--recorded", "--step-rule", step_rule, "--out", records)
    folders = _split(records, work, questions)
    if not (dm / CARD_NAME).exists() or is_under_way(dm):
        options = ("--kind", "text", "--backbone", backbone, "--train-share", 1, *training)
        run_drr("train", "--data", folders["train"], "--out", dm, *options)
    rollouts = {use: read_rollouts(folder) for use, folder in folders.items()}
    asked = spelled_alike(rollouts["test"])
    data = Judge("text", dm, DmCard.load(dm).max_tokens).boundaries(asked)
    scores = probabilities(load_dm_head(dm), data)
    outcome = replace(data, now=data.later, known=np.ones_like(data.known))
    with Grading("auto") as grading:
        oracle = oracle_savings(rollouts["test"], grading, close)
    attempts = [rollout for part in rollouts.values() for rollout in part]
    counts = {use: len({rollout.identity for rollout in part}) for use, part in rollouts.items()}
    return {
        "source": source.name,
        "backbone": Path(backbone).name,
        "questions": {"trained on": counts["train"], "measured on": counts["test"]},
        "attempts": len(attempts),
        "right": round(float(np.mean([rollout.later for rollout in attempts])), 4),
        "now": figures(Scored(scores[:, 0], data, asked)),
        "later": figures(Scored(scores[:, 1], outcome, asked)),
        "oracle": oracle,
    }


def _is_complete(records: Path) -> bool:
    return (records / MANIFEST_NAME).exists() and Manifest.load(records).complete


def _split(records: Path, work: Path, questions: int | None) -> dict[str, Path]:
    """Folders with the records that train and those that test, each question in one of them. They are split here, not
    by `drr train`, which would measure the DM on its share of them as well: with an encoder that takes hours."""
    folders = {use: work / use for use in ("train", "test")}
    if all(map(_is_complete, folders.values())):
        return folders
    manifest, rollouts = Manifest.load(records), [one for one in read_rollouts(records) if one.steps]
    order = sorted({one.identity for one in rollouts}, key=lambda question: share_of(question, _SALT))[:questions]
    last = round(TRAIN_SHARE * len(order))
    for use, chosen in (("train", {*order[:last]}), ("test", {*order[last:]})):
        folders[use].mkdir(exist_ok=True)
        write_shard(shard_path(folders[use], 0), [one for one in rollouts if one.identity in chosen])
        close_folder(folders[use], Manifest(manifest.settings, manifest.versions), [])
    return folders


def spelled_alike(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with equal answers spelled alike, so that votes for `70,000` and `$70000` are counted together. All
    right answers to a question are its gold answer; of others, those are equal that are the same number, or, case and
    white space aside, the same text."""
    return [replace(rollout, answer=_plain_answer(rollout)) for rollout in rollouts]


def _plain_answer(rollout: Rollout) -> str:
    if rollout.later and rollout.gold:
        return rollout.gold
    number = number_in(rollout.answer, comma_decimal=False)
    return str(number.value) if isinstance(number, Number) else folded(rollout.answer)


def oracle_savings(rollouts: Sequence[Rollout], grading: Grading, close: str = "") -> dict[str, Any]:
    """How much of the thinking comes behind the first step that gives the right answer, where it could have ended.

    Thinking is everything up to and including the first step that holds the text `close`; everything, where `close` is
    empty or comes nowhere. Tokens are counted as the records count them (recorded solutions: words). Two readings of a
    step: `stated` takes an answer only where the step says outright that it is one; `read` takes whatever answer the
    grader finds in the step alone, such as its last number, so a value that happens to equal the answer counts as well.
    The one is too strict, the other too generous.

    Per reading, over the attempts that end right: `found`, the share of them that give the right answer in some step of
    their thinking; `tokens` and `steps`, the share of all their thinking that comes behind the first such step (none of
    it, where there is no such step). `lost` is the share of the attempts that end wrong in which a step of the thinking
    gave the right answer. Attempts without a gold answer are left out; a share of nothing is None.
    """
    known = [rollout for rollout in rollouts if rollout.gold and rollout.steps]
    right = [rollout for rollout in known if rollout.later]
    wrong = [rollout for rollout in known if not rollout.later]
    found: dict[str, Any] = {"right": len(right), "wrong": len(wrong)}
    for name, gives in (("stated", _states), ("read", _gives)):
        firsts = [_first(rollout, close, grading, gives) for rollout in right]
        lengths = [_thinking(rollout, close) for rollout in right]
        tokens, behind, steps, steps_behind = 0, 0, 0, 0
        for rollout, first, length in zip(right, firsts, lengths, strict=True):
            tokens, steps = tokens + sum(rollout.step_tokens[:length]), steps + length
            if first is not None:
                behind += sum(rollout.step_tokens[first + 1 : length])
                steps_behind += length - first - 1
        found[name] = {
            "found": _share(sum(first is not None for first in firsts), len(right)),
            "tokens": _share(behind, tokens),
            "steps": _share(steps_behind, steps),
            "lost": _share(sum(_first(rollout, close, grading, gives) is not None for rollout in wrong), len(wrong)),
        }
    return found


def _gives(step: str, gold: str, grading: Grading) -> bool:
    return grading.right(step, gold, "a step")


def _states(step: str, gold: str, grading: Grading) -> bool:
    return stated_answer(step) is not None and _gives(step, gold, grading)


def _first(rollout: Rollout, close: str, grading: Grading, gives: Callable[[str, str, Grading], bool]) -> int | None:
    """The index of the first step of the thinking that gives the right answer; None if none does."""
    thinking = rollout.steps[: _thinking(rollout, close)]
    return next((index for index, step in enumerate(thinking) if gives(step, rollout.gold, grading)), None)


def _thinking(rollout: Rollout, close: str) -> int:
    """The number of steps that are thinking."""
    ends = (index + 1 for index, step in enumerate(rollout.steps) if close and close in step)
    return next(ends, len(rollout.steps))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _begin(work: Path, source: Path, settings: dict[str, Any]) -> None:
    """Record what is done in `work`. InputError if it was begun with something else, or there is no such source."""
    if not source.is_file():
        raise InputError(str(source), "there is no such file")
    settings = {"source": source.name, "contents": hashlib.sha256(source.read_bytes()).hexdigest()[:12], **settings}
    work.mkdir(parents=True, exist_ok=True)
    path = work / _SETTINGS_NAME
    if path.exists():
        check_same_settings(work, read_json_object(path), settings)
    else:
        write_whole(path, json.dumps(settings, indent=1) + "\n")
