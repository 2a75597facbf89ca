"""A whole DM from behaviour records: all steps after the text classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drr.files import write_whole
from drr.judge.dm_folder import HEAD_NAME, TRAINED_ON_NAME, DmCard
from drr.judge.head import FusionHead, save_head
from drr.learn.boundaries import Boundaries, score_boundaries
from drr.learn.dm_card import write_dm_card
from drr.learn.dm_metrics import baselines, score_report
from drr.learn.fusion import fit_head, judge_probabilities, probabilities, with_temperatures
from drr.learn.plots import draw_dm
from drr.learn.records import Manifest, Rollout, question_key
from drr.learn.train_split import TrainingData
from drr.loop.features import FEATURE_NAMES

_DEFAULT_THRESHOLD = 0.9
"""The threshold on p_now of a DM that has not been calibrated yet."""


def finish_dm(
    data: TrainingData, manifest: Manifest, figures: dict[str, Any], folder: Path, *, seed: int = 0, name: str = ""
) -> DmCard:
    """Fit the head, measure the DM on held-out questions, and write `drr.json`, model card and plots into `folder`,
    which holds the text classifier. `figures` are those of its training."""
    limit = int(figures["max_tokens"])
    fitting = score_boundaries(data.head, folder, limit, "Scoring for the head")
    questions = [rollout.question for rollout in data.head]
    head = with_temperatures(fit_head(fitting, questions, seed=seed), fitting)
    behaviour = with_temperatures(fit_head(fitting, questions, use=FEATURE_NAMES, seed=seed), fitting)
    save_head(head, folder / HEAD_NAME)
    keys = sorted({question_key(rollout.question) for rollout in data.trained_on})
    write_whole(folder / TRAINED_ON_NAME, "\n".join(keys) + "\n")
    metrics: dict[str, Any] = {}
    if data.held_out:
        held_out = score_boundaries(data.held_out, folder, limit, "Scoring held-out questions")
        metrics = measure(head, behaviour, fitting, held_out, data.held_out)
        parts = parts_of(head, behaviour, held_out)
        draw_dm({part: scores[:, 0] for part, scores in parts.items()}, held_out, folder / "plots")
    settings = manifest.settings
    reasoner = settings["reasoner"]
    card = DmCard(
        id=name or folder.resolve().name,
        reasoner=reasoner["fingerprint"],
        reasoner_name=reasoner["name"],
        step_rule=settings["step_rule"],
        threshold=_DEFAULT_THRESHOLD,
        max_tokens=limit,
        trained_on={
            **{key: settings[key] for key in ("labels", "grader", "temperature", "top_p", "top_k") if key in settings},
            "questions": {
                use: len({rollout.identity for rollout in getattr(data, use)}) for use in TrainingData.__slots__
            },
            "classifier": figures,
            "versions": manifest.versions,
        },
        metrics=metrics,
    )
    card.save(folder)
    write_dm_card(card, folder)
    return card


def measure(
    head: FusionHead, behaviour: FusionHead, fitting: Boundaries, held_out: Boundaries, rollouts: Sequence[Rollout]
) -> dict[str, Any]:
    """Figures of `now` on held-out questions for text alone, behaviour alone, both fused, and for trivial signals."""
    parts = parts_of(head, behaviour, held_out)
    report = {part: score_report(scores[:, 0], held_out, rollouts) for part, scores in parts.items()}
    return {**report, "baselines": baselines(fitting, held_out)}


def parts_of(head: FusionHead, behaviour: FusionHead, data: Boundaries) -> dict[str, Any]:
    """Probabilities [N, 2] from the text alone and, if behaviour features are known, from behaviour alone and fused."""
    parts = {"text": judge_probabilities(head, data)}
    if head.reads_behaviour and data.featured.any():
        parts["behaviour"] = probabilities(behaviour, data)
        parts["fused"] = probabilities(head, data)
    return parts
