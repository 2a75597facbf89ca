"""The stages of the evidence on a real model, each continued where it was stopped."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.launch import run_drr
from benchmarks.real.inner_states import InnerStates, read_inner_states
from benchmarks.real.plan import plan
from benchmarks.real.questions import INSTRUCTION, USES, QuestionSet, Use, write_questions
from benchmarks.real.remedies import remedies
from benchmarks.real.report import (
    OUTCOMES_NAME,
    PLAN_NAME,
    REMEDIES_NAME,
    SAMPLING_NAME,
    SETTINGS_NAME,
    SKILL_NAME,
    TRACES_NAME,
    publish,
)
from benchmarks.real.sampling import Sampling, choose_sampling
from benchmarks.real.skill import Attempts, learning_curve, parts, transfer
from benchmarks.real.traces import measure_traces
from drr.certify.promise import PROMISE_NAME
from drr.certify.scorer_names import asking
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.strategies import FULL
from drr.files import check_same_settings, read_json_object, write_whole
from drr.judge.dm_folder import CARD_NAME
from drr.judge.scorers.registry import ScorerName
from drr.learn.train import is_causal

MAX_TOKENS, ANSWER_TOKENS = 400, 48
ROLLOUTS: Mapping[Use, tuple[int, int]] = {"train": (4, 0), "calibration": (2, 0)}
"""By use, attempts at every question, and more where outcomes are mixed."""

KINDS = ("head", "text", "fused")
TEXT_TRAINING = ("--epochs", 1, "--learning-rate", 5e-5, "--ranking", 1)
ENCODER_TRAINING = ("--boundaries-per-rollout", 2)
"""An encoder reads the whole text again at every boundary."""

SPLITS = 100
"""Random splits of the calibration questions on which the promise is tested."""

CALIBRATED: tuple[ScorerName, ...] = ("entropy", "confidence", "answer_probe", "logprob")
"""Scorers without training that are calibrated like the DM."""

ASKING: tuple[ScorerName, ...] = ("confidence", "answer_probe")
"""Those of them that ask the Reasoner at every boundary, which takes long."""

SCORERS: tuple[ScorerName, ...] = (*CALIBRATED, "self_critique", "critique")
ATTEMPTS = (2, 4)
_RULES = ("default", "5 % lost", "10 % lost")

STRATEGIES: tuple[tuple[str, ...], ...] = (
    (FULL, "samples", "greedy", "rethink: dm", "by votes, rethink: dm"),
    ("judged by logprob", "judged by entropy", "judged by self_critique", "rethink: logprob", "rethink: self_critique"),
    ("first stated answer", "stop: dm", "stop + rethink: dm", "greedy, stop + rethink: dm"),
    tuple(f"{name}, {rule}" for name in ("entropy", "logprob") for rule in _RULES),
    ("judged by critique", "rethink: critique, 2", "in context, rethink: critique, 2"),
    ("budget",),
    ("oracle stop",),
    ("judged by confidence", *(f"{name}, {rule}" for name in ASKING for rule in _RULES)),
    ("rethink: confidence",),
)
"""What is compared, the most telling first."""

_TRACE_QUESTIONS = 400
"""Questions of each file of recorded solutions: an encoder reads the whole text anew at every boundary."""

PUBLISH = "publish"
"""The stage after which there is something to report."""

_CLOSE = "</think>"
"""What ends the thinking in recorded traces that have any."""

_RISKS = ("--risk", 0.01, "--risk", 0.02, "--risk", 0.05, "--risk", 0.1)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Questions of each set, by use."""

    test: int = 150
    validation: int = 40
    calibration: int = 150
    train: int = 250

    def by_use(self) -> dict[Use, int]:
        return {use: getattr(self, use) for use in USES}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run works, and with which Reasoner."""

    reasoner: str
    work: Path
    out: Path
    dtype: str | None = None

    @property
    def questions(self) -> Path:
        return self.work / "questions"

    def records(self, use: Use) -> Path:
        return self.work / "records" / use

    @property
    def cache(self) -> Path:
        """What the Reasoner generated, shared by all stages."""
        return self.work / "generations.sqlite"

    @property
    def calibrations(self) -> Path:
        return self.work / "calibrations"

    def dm(self, kind: str) -> Path:
        return self.work / "dms" / kind


def run(
    reasoner: str,
    sets: Sequence[QuestionSet],
    sizes: Sizes,
    work: Path,
    out: Path,
    only: Sequence[str] | None = None,
    backbone: str | None = None,
    hours: float | None = None,
    traces: Sequence[Path] = (),
    dtype: str | None = None,
) -> None:
    """Run the stages (those named in `only`, or all). Text classifiers grow from `backbone`; without it there are none.
    With `hours`, no more questions train than these leave time for. `traces` are files of recorded solutions, `dtype`
    is what the Reasoner computes in. InputError if `work` was begun with something else."""
    place = Place(reasoner, work, out, dtype)
    settings = _settings(place, sets, sizes, hours)
    path = work / SETTINGS_NAME
    if path.exists():
        check_same_settings(work, read_json_object(path), settings)
    stages: dict[str, Callable[[], None]] = {
        "questions": partial(_questions, place, sets, sizes, settings),
        "sampling": partial(_sampling, place),
        "plan": partial(_plan, place, sets, sizes, hours),
        "records-train": partial(_records, place, "train"),
        "records-calibration": partial(_records, place, "calibration"),
        "dms": partial(_dms, place, backbone),
        "calibrations": partial(_calibrations, place),
        "outcomes": partial(_outcomes, place),
        "skill": partial(_skill, place),
        "remedies": partial(_remedies, place),
        "traces": partial(_traces, place, backbone, traces),
        PUBLISH: partial(_publish, place),
    }
    unknown = [name for name in only or () if name not in stages]
    if unknown:
        raise InputError("--stage", f"{unknown[0]!r} is none of {', '.join(stages)}")
    for name, stage in stages.items():
        if not only or name in only:
            Console().rule(name)
            stage()


def _questions(place: Place, sets: Sequence[QuestionSet], sizes: Sizes, settings: dict[str, Any]) -> None:
    path = place.work / SETTINGS_NAME
    if path.exists():
        return
    place.questions.mkdir(parents=True, exist_ok=True)
    write_questions(sets, sizes.by_use(), place.questions)
    write_whole(path, json.dumps(settings, indent=1) + "\n")


def _settings(place: Place, sets: Sequence[QuestionSet], sizes: Sizes, hours: float | None) -> dict[str, Any]:
    """What a run is begun with, as it is read back."""
    settings = {
        "sets": [asdict(one) for one in sets],
        "sizes": asdict(sizes),
        "hours": hours,
        "instruction": INSTRUCTION,
        "reasoner": place.reasoner,
        "dtype": place.dtype,
    }
    read: dict[str, Any] = json.loads(json.dumps(settings))
    return read


def _plan(place: Place, sets: Sequence[QuestionSet], sizes: Sizes, hours: float | None) -> None:
    """Say how long everything will take, and leave out the training questions for which there is no time."""
    path = place.work / PLAN_NAME
    if not path.exists():
        found = plan(_chosen(place), len(sets), sizes.by_use(), ROLLOUTS, hours)
        write_questions(sets, {**sizes.by_use(), "train": found.train}, place.questions)
        write_whole(path, json.dumps(asdict(found), indent=1) + "\n")
    told = read_json_object(path)
    stages = ", ".join(f"{stage} {spent:.1f} h" for stage, spent in told["hours"].items())
    line = f"{told['train']} questions of each set train; at this speed: {stages}"
    Console().print(line, highlight=False, soft_wrap=True)


def config() -> EvalConfig:
    """How every answer is sampled, but for the temperature."""
    return EvalConfig(max_tokens=MAX_TOKENS, answer_tokens=ANSWER_TOKENS, concurrency=96)


def _sampling(place: Place) -> None:
    found = _chosen(place)
    for one in found.tried:
        name = f"temperature {one.temperature:g}" if one.temperature else "greedy"
        line = f"{name}: {100 * one.accuracy:.1f} % (+-{100 * one.error:.1f}), any {100 * one.any_right:.1f} %"
        Console().print(f"{line}, {one.tokens:.0f} tokens, {100 * one.cut:.0f} % cut; {one.by_set}", highlight=False)
    Console().print(f"chosen: {found.chosen:g}; {found.tokens_per_second:.0f} tokens a second", highlight=False)


def _chosen(place: Place) -> Sampling:
    questions = place.questions / "validation.jsonl"
    return choose_sampling(place.reasoner, questions, place.work / SAMPLING_NAME, config(), place.dtype)


def _records(place: Place, use: Use) -> None:
    first, more = ROLLOUTS[use]
    run_drr(
        *("distill", place.questions / f"{use}.jsonl", "--reasoner", place.reasoner, "--out", place.records(use)),
        *("--rollouts", first, "--extra-rollouts", more, *_as_sampled(place)),
    )


def _as_sampled(place: Place) -> tuple[object, ...]:
    """The options that make every command sample as was chosen."""
    settings = config()
    return (
        *("--temperature", f"{_chosen(place).chosen:g}", "--max-tokens", settings.max_tokens),
        *("--answer-tokens", settings.answer_tokens, "--concurrency", settings.concurrency),
        *("--use-cache", place.cache),
        *(() if place.dtype is None else ("--dtype", place.dtype)),
    )


def _dms(place: Place, backbone: str | None) -> None:
    """Train a DM of every kind. All training questions train: others calibrate and test."""
    common = ["--data", place.records("train"), "--train-share", 1]
    reasoner: list[object] = ["--reasoner", place.reasoner]
    kinds: dict[str, list[object]] = {"head": reasoner}
    if backbone is not None:
        kinds["text"] = ["--backbone", backbone, *_training(backbone)]
        kinds["fused"] = [*reasoner, "--text-dm", place.dm("text")]
    for kind, own in kinds.items():
        if not (place.dm(kind) / CARD_NAME).exists():
            run_drr("train", "--kind", kind, *common, *own, "--out", place.dm(kind))


def _training(backbone: str) -> tuple[object, ...]:
    return TEXT_TRAINING if is_causal(backbone) else (*TEXT_TRAINING, *ENCODER_TRAINING)


def _calibrations(place: Place) -> None:
    """Certify rules of every DM, and of the scorers that stop by rules, on the same questions."""
    data: list[object] = ["--data", place.records("calibration")]
    reasoner: list[object] = ["--reasoner", place.reasoner]
    for kind in KINDS:
        folder = place.dm(kind)
        if (folder / CARD_NAME).exists() and not (folder / PROMISE_NAME).exists():
            own = [] if kind == "text" else reasoner
            run_drr("calibrate", "--dm", folder, *data, *own, *_RISKS, "--check", SPLITS)
    for name in CALIBRATED:
        if not (place.calibrations / f"{name}.json").exists():
            asked = [*reasoner, "--use-cache", place.cache] if asking([name]) else []
            run_drr("calibrate", "--scorer", name, *data, *asked, *_RISKS, "--out", place.calibrations)


def _outcomes(place: Place) -> None:
    """Answer the test questions in every way, the most telling ways first."""
    models = ["--reasoner", place.reasoner, "--dm", place.dm("head"), "--calibration", place.calibrations]
    scorers = [part for name in SCORERS for part in ("--scorer", name)]
    scorers += [part for count in ATTEMPTS for part in ("--attempts", str(count))]
    asked = ["eval", place.questions / "test.jsonl", *models, *scorers, *_as_sampled(place)]
    asked += ["--out", place.work / OUTCOMES_NAME]
    for group in STRATEGIES:
        run_drr(*asked, *[part for name in group for part in ("--strategy", name)])


def _skill(place: Place) -> None:
    """Measure where the DMs' skill comes from, on the calibration questions: nothing here was trained on them."""
    path = place.work / SKILL_NAME
    if path.exists():
        return
    train, test = (Attempts.load(place.records(use), place.reasoner) for use in ("train", "calibration"))
    text = place.dm("text") if (place.dm("text") / CARD_NAME).exists() else None
    found = {
        "parts": parts(train, test, text_dm=text, reasoner=place.reasoner),
        "transfer": transfer(train, test),
        "curve": learning_curve(train, test),
    }
    write_whole(path, json.dumps(found, indent=1) + "\n")


def _remedies(place: Place) -> None:
    """Measure what other heads would know, on the calibration questions: nothing here was trained on them."""
    path = place.work / REMEDIES_NAME
    if path.exists():
        return
    train, test = (Attempts.load(place.records(use), place.reasoner) for use in ("train", "calibration"))

    def inner(attempts: Attempts) -> InnerStates:
        use = "train" if attempts is train else "calibration"
        return read_inner_states(
            attempts.rollouts, place.reasoner, place.dtype, place.work / "inner" / f"{use}.safetensors"
        )

    write_whole(path, json.dumps(remedies(train, test, inner), indent=1) + "\n")


def _traces(place: Place, backbone: str | None, sources: Sequence[Path]) -> None:
    """Train text DMs on recorded solutions, and measure them."""
    if not sources:
        return
    if backbone is None:
        raise InputError("--traces", "needs --backbone: recorded solutions train text classifiers only")
    training = list(map(str, _training(backbone)))
    found = [
        measure_traces(
            source,
            backbone,
            place.work / "traces" / source.stem,
            close=_CLOSE,
            questions=_TRACE_QUESTIONS,
            training=training,
        )
        for source in sources
    ]
    write_whole(place.work / TRACES_NAME, json.dumps({"traces": found}, indent=1) + "\n")


def _publish(place: Place) -> None:
    made = {kind: place.dm(kind) for kind in KINDS if (place.dm(kind) / CARD_NAME).exists()}
    publish(place.work, place.out, made)
