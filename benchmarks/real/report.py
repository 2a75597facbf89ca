"""`docs/evidence.md`: its sections on a real model, made from what a run recorded, and from nothing else."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import check_section, link_to, write_section
from benchmarks.real.attempts import attempts_table, judged_attempts
from benchmarks.real.sampling import Sampled, read_sampling
from benchmarks.real.skill_tables import curve_table, parts_table, remedies_table, traces_table, transfer_table
from drr.certify.promise import PROMISE_NAME
from drr.certify.thresholds import questions_needed
from drr.errors import InputError
from drr.evaluate.run import read_outcomes
from drr.evaluate.tables import every_strategy, markdown_table
from drr.evaluate.write import summary, write_report
from drr.files import read_json_object, write_whole
from drr.judge.dm_folder import CARD_NAME, HEAD_NAME, STATE_HEAD_NAME, TRAINED_ON_NAME, DmCard
from drr.judge.dm_sums import write_sums
from drr.tasks.grading_pool import Grading

COMMAND = "python -m benchmarks.real --report"
SETTINGS_NAME, SAMPLING_NAME, PLAN_NAME = "settings.json", "sampling.json", "plan.json"
HEAD_KIND, DM_NAME = "head", "dm-head"
DMS_NAME, OUTCOMES_NAME = "dms.json", "outcomes"
SKILL_NAME, REMEDIES_NAME, TRACES_NAME = "skill.json", "remedies.json", "traces.json"


def publish(work: Path, out: Path, dms: Mapping[str, Path]) -> None:
    """Copy what a report needs from a run's folder into `out`: settings, sampling, the figures of the DMs in `dms` (by
    kind) with the trials of their promises, and the outcomes; and the head itself, which is small, so that what was
    measured can be measured again. None of it holds a question's text."""
    out.mkdir(parents=True, exist_ok=True)
    settings = read_json_object(work / SETTINGS_NAME)
    # Where a model or a file lies says nothing to a reader.
    settings["reasoner"] = Path(settings["reasoner"]).name
    settings["sets"] = [one["name"] for one in settings["sets"]]
    if (work / PLAN_NAME).exists():
        settings["sizes"]["train"] = read_json_object(work / PLAN_NAME)["train"]
    write_whole(out / SETTINGS_NAME, json.dumps(settings, indent=1) + "\n")
    for name in (SAMPLING_NAME, SKILL_NAME, REMEDIES_NAME, TRACES_NAME):
        if (work / name).exists():
            shutil.copyfile(work / name, out / name)
    found = {kind: _figures(folder) for kind, folder in dms.items()}
    if found:
        write_whole(out / DMS_NAME, json.dumps(found, indent=1) + "\n")
    if HEAD_KIND in dms:
        keep_head(dms[HEAD_KIND], out / DM_NAME)
    (out / OUTCOMES_NAME).mkdir(exist_ok=True)
    for path in (work / OUTCOMES_NAME).glob("*.parquet"):
        shutil.copyfile(path, out / OUTCOMES_NAME / path.name)


def keep_head(folder: Path, out: Path) -> None:
    """Copy the DM of kind head in `folder`, without its self-test, which holds the ids of a question's tokens."""
    out.mkdir(exist_ok=True)
    for name in (CARD_NAME, HEAD_NAME, STATE_HEAD_NAME, TRAINED_ON_NAME):
        shutil.copyfile(folder / name, out / name)
    write_sums(out)


def _figures(folder: Path) -> dict[str, Any]:
    card = DmCard.load(folder)
    promise = folder / PROMISE_NAME
    return {
        "trained_on": card.trained_on,
        "calibration": card.calibration,
        "promise": json.loads(promise.read_text()) if promise.exists() else None,
    }


def report(out: Path, page: Path) -> None:
    """Write the sections of `page` from the figures that `out` holds, with their pictures. A page that is not there is
    begun, and one without any of them gets them at its end. InputError if `out` holds nothing, or if the page lacks
    some of the sections only."""
    if not (out / SETTINGS_NAME).exists():
        raise InputError(str(out), "holds no evidence: run python -m benchmarks.real")
    if not page.exists():
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, f"# Evidence\n\n{_sections()}")
    elif not any(f"<!-- {name}: written by" in page.read_text() for name in SECTIONS):
        write_whole(page, f"{page.read_text().rstrip()}\n\n{_sections()}")
    with Grading("auto") as grading:
        made = {name: section(out, link_to(out, page), grading) for name, section in SECTIONS.items()}
    try:
        for name in made:
            check_section(page, name)
    except ValueError as error:
        raise InputError(str(page), str(error)) from error
    for name, text in made.items():
        write_section(page, name, COMMAND, text)


def _sections() -> str:
    """The sections, still empty, one below the other."""
    titles = {name: name.removeprefix("real ").capitalize() for name in SECTIONS}
    marks = {name: f"<!-- {name}: written by {COMMAND} -->\n<!-- end of {name} -->" for name in SECTIONS}
    parts = [f"## {title}\n\n{marks[name]}\n" for name, title in titles.items()]
    return "\n".join(parts)


def _setup(out: Path, _link: str, _grading: Grading) -> str:
    settings = read_json_object(out / SETTINGS_NAME)
    sizes = settings["sizes"]
    lines = [
        f"Reasoner: {Path(settings['reasoner']).name}. Sets: {', '.join(settings['sets'])}; of each "
        f"{sizes['test']} questions to test, {sizes['validation']} to choose the sampling, {sizes['calibration']} to "
        f"calibrate and {sizes['train']} to train. Behind each question stands: *{settings['instruction']}*",
    ]
    if (out / SAMPLING_NAME).exists():
        found = read_sampling(out / SAMPLING_NAME)
        lines += [
            "",
            f"Temperature {found.chosen:g} was chosen on the questions for that:",
            "",
            _sampling_table(found.tried),
        ]
    return "\n".join(lines)


def _sampling_table(tried: Sequence[Sampled]) -> str:
    sets = sorted(tried[0].by_set)
    rows = []
    for one in tried:
        temperature = f"{one.temperature:g}" if one.temperature else "greedy"
        right = f"{100 * one.accuracy:.1f} % (standard error {100 * one.error:.1f})"
        shares = [one.any_right, *(one.by_set[name] for name in sets)]
        percents = [f"{100 * share:.1f} %" for share in shares]
        rows.append([temperature, right, *percents, f"{one.tokens:.0f}", f"{100 * one.cut:.0f} %"])
    return markdown_table(["temperature", "right", "any of several", *sets, "tokens", "cut off"], rows)


def _outcomes(out: Path, link: str, grading: Grading) -> str:
    folder = out / OUTCOMES_NAME
    if not any(folder.glob("*.parquet")):
        return _NOT_YET
    results = write_report(folder, grading)
    groups = results["groups"]
    tables = [f"### {name}\n\n{every_strategy(rows)}" for name, rows in groups.items()]
    return "\n\n".join([summary(results, list(groups), f"{link}{OUTCOMES_NAME}/"), *tables])


def _attempts(out: Path, _link: str, grading: Grading) -> str:
    folder = out / OUTCOMES_NAME
    if not any(folder.glob("*.parquet")):
        return _NOT_YET
    found = judged_attempts(read_outcomes(folder), grading)
    if not found:
        return _NOT_YET
    return (
        "AUROC of right against wrong attempts at the test questions. Agreement is the number of attempts at the "
        f"question that give the same answer; both is the sum of their `p_now`.\n\n{attempts_table(found)}"
    )


def _promise(out: Path, _link: str, _grading: Grading) -> str:
    if not (out / DMS_NAME).exists():
        return _NOT_YET
    rows, needed = [], {}
    for kind, figures in read_json_object(out / DMS_NAME).items():
        if figures["calibration"] is None or figures["promise"] is None:
            continue
        calibration = figures["calibration"]
        right, confidence = calibration["right"] / calibration["questions"]["test"], calibration["confidence"]
        certified = {one["max_lost_correct"]: one for one in figures["calibration"]["certificates"]}
        for trial in figures["promise"]:
            risk = trial["max_lost_correct"]
            needed[risk] = _needed(risk, confidence, right)
            rule = certified.get(risk)
            own = [f"{100 * rule['saved']:.1f} %", f"{rule['lost']} of {rule['right']}"] if rule else ["no rule", ""]
            splits = [f"{trial['within']} of {trial['splits']}", f"{trial['certified']}"]
            rows.append([kind, f"{100 * risk:g} %", *own, *splits, f"{100 * trial['mean_saved']:.1f} %"])
    head = [
        "DM",
        "risk",
        "certified rule saves",
        "lost",
        "splits within",
        "splits with a rule",
        "saved, mean of splits",
    ]
    questions = markdown_table(
        ["risk", "questions that full thinking gets right", "calibration questions, at this Reasoner's accuracy"],
        [[f"{100 * risk:g} %", f"{least:,}", f"{asked:,}"] for risk, (least, asked) in needed.items()],
    )
    least = "What the smallest certificate needs, of which nothing may be lost:"
    return f"{markdown_table(head, rows)}\n\n{least}\n\n{questions}"


def _needed(risk: float, confidence: float, right: float) -> tuple[int, int]:
    """How many questions must be got right, and so how many be asked for the tests, before a risk can be certified at
    all: none of them lost is then less likely than 1 - `confidence`."""
    least = questions_needed(risk, 1 - confidence)
    return least, math.ceil(least / right)


def _skill(out: Path, _link: str, _grading: Grading) -> str:
    if not (out / SKILL_NAME).exists():
        return _NOT_YET
    found = read_json_object(out / SKILL_NAME)
    parts = {
        "Parts of a DM, on the same boundaries": parts_table(found["parts"]),
        "On a set that it never saw": transfer_table(found["transfer"]),
        "How many questions does it take?": curve_table(found["curve"]),
    }
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in parts.items())


def _remedies(out: Path, _link: str, _grading: Grading) -> str:
    if not (out / REMEDIES_NAME).exists():
        return _NOT_YET
    return remedies_table(read_json_object(out / REMEDIES_NAME))


def _traces(out: Path, _link: str, _grading: Grading) -> str:
    if not (out / TRACES_NAME).exists():
        return _NOT_YET
    return traces_table(read_json_object(out / TRACES_NAME)["traces"])


_NOT_YET = "Not recorded yet."
SECTIONS: dict[str, Callable[[Path, str, Grading], str]] = {
    "real setup": _setup,
    "real outcomes": _outcomes,
    "real attempts": _attempts,
    "real promise": _promise,
    "real skill": _skill,
    "real remedies": _remedies,
    "real traces": _traces,
}
