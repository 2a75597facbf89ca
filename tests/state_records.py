"""Behaviour records of a tiny random Reasoner, for tests of what reads its states."""

import json
from pathlib import Path

from drr.judge.dm_folder import fingerprint
from drr.learn.distill_config import DistillConfig
from drr.learn.records import MANIFEST_NAME, Manifest, read_rollouts, shards, write_shard
from drr.tasks import Question
from tests.fake_engine import FakeEngine, distil
from tests.tiny_models import tiny


def records_of_tiny_reasoner(
    folder: Path, asked: list[Question], config: DistillConfig, *, skill: float = 0.7
) -> tuple[Path, Path]:
    """A tiny Reasoner and records that name it as theirs: the folders of both."""
    reasoner, records = tiny(folder / "reasoner", "causal"), folder / "records"
    distil(asked, records, config, FakeEngine(asked, skill=skill))
    claim(records, fingerprint(reasoner))
    return reasoner, records


def claim(records: Path, weights: str) -> None:
    """Let records say that the Reasoner with this fingerprint made them."""
    manifest = json.loads((records / MANIFEST_NAME).read_text())
    manifest["settings"]["reasoner"]["fingerprint"] = weights
    (records / MANIFEST_NAME).write_text(json.dumps(manifest))


def without_ids(records: Path) -> None:
    """Make records like those of version 2, which hold no token ids."""
    for path in shards(records):
        rollouts = read_rollouts(records)
        for rollout in rollouts:
            rollout.prompt_ids = rollout.thought_ids = None
        write_shard(path, rollouts)
    manifest = Manifest.load(records)
    manifest.schema = 2
    manifest.save(records)
