"""The model card of a DM: what it was trained on and what was measured, in the folder's README.md."""

from pathlib import Path
from typing import Any

from drr.judge.calibration import Calibration
from drr.judge.dm_folder import DmCard
from drr.loop.rule import Rule

PLOT_NAMES = ("roc.png", "reliability.png", "steps.png")

_MEANINGS = {
    "all": "every boundary",
    "before": "before an answer is stated",
    "first": "at the first stated answer",
    "after": "later",
    "last": "at the end of the attempt",
}
PARTS = ("text", "state", "behaviour", "head", "fused")
"""What a DM's figures are measured for: its parts, and last the whole."""


def write_dm_card(card: DmCard, folder: Path) -> None:
    """Write `README.md` into the DM's folder."""
    (folder / "README.md").write_text(model_card(card, folder))


def model_card(card: DmCard, folder: Path) -> str:
    """The model card of the DM in `folder`, as Markdown."""
    sections = [_head(card), _training(card), _metrics(card, folder), _calibration(card)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(card: DmCard) -> str:
    return f"""---
license: apache-2.0
---
# {card.id}: the DM of {card.reasoner_name}

Judges the step boundaries of that Reasoner's thinking: the probability that an answer forced there is right (`p_now`),
and that the answer after full thinking is right (`p_later`). Learned from the Reasoner's own graded behaviour; no human
labelled a step. Steps end by the rule `{card.step_rule}`."""


def _training(card: DmCard) -> str:
    if not card.trained_on:
        return ""
    questions = card.trained_on["questions"]
    labels = {"gold": "the dataset's answers", "consistency": "the rollouts' majority answers"}
    against = labels.get(card.trained_on.get("labels", ""), "recorded outcomes")
    trained = [_classifier(card.trained_on["classifier"], questions)] if "classifier" in card.trained_on else []
    if "state_head" in card.trained_on:
        trained.append(_state_head(card.trained_on["state_head"], questions))
    fitted = f"{questions['head']:,} other questions"
    if "questions" in card.trained_on.get("state_head", {}):
        fitted = "these questions, each judged by networks that it did not train"
        if card.kind == "fused":
            fitted = f"the {questions['head']:,} questions that did not train the classifier"
    return f"""## Training

{chr(10).join(trained)}
A small network reads these logits beside the Reasoner's behaviour (token log-probabilities, length, position, stated
answers). It was fitted on {fitted}. Labels were graded against {against}."""


def _classifier(training: dict[str, Any], questions: dict[str, int]) -> str:
    since = f" since step {training['resumed_from']:,}" if training["resumed_from"] else ""
    boundaries, planned_steps = training["boundaries"], training["planned_steps"]
    return f"""A text classifier ({training["parameters"]:,} parameters, from `{training["backbone"]}`) was trained on
{boundaries:,} boundaries of {training["rollouts"]:,} rollouts of {questions["text"]:,} questions
({training["steps"]:,} of {planned_steps:,} steps, {training["seconds"]:,} s{since})."""


def _state_head(training: dict[str, Any], questions: dict[str, int]) -> str:
    boundaries, epochs = training["boundaries"], training["best_epoch"]
    return f"""A state head ({training["parameters"]:,} parameters), which runs inside the Reasoner's forward pass, was
trained on the Reasoner's last hidden state at {boundaries:,} boundaries of {training["rollouts"]:,} rollouts of
{training.get("questions", questions["text"]):,} questions ({epochs} epochs, {training["seconds"]:,} s)."""


def _metrics(card: DmCard, folder: Path) -> str:
    parts = [part for part in PARTS if part in card.metrics]
    if not parts:
        return ""
    figures = {part: card.metrics[part] for part in parts}
    rows = [
        f"| {meaning} | {figures[parts[0]][phase]['boundaries']:,} | {100 * figures[parts[0]][phase]['right']:.1f} % | "
        + " | ".join(_three(figures[part][phase]) for part in parts)
        + " |"
        for phase, meaning in _MEANINGS.items()
        if phase in figures[parts[0]]
    ]
    within = [
        f"| {_MEANINGS[phase]} | {figures[parts[0]][name]['mixed_questions']:,} | "
        + " | ".join(_number(figures[part][name]["auroc"]) for part in parts)
        + " |"
        for phase in ("first", "last")
        if figures[parts[0]][name := f"within_question_{phase}"]["mixed_questions"]
    ]
    alone = "; ".join(
        f"{name.replace('_', ' ')} {_number(baseline['auroc'])}"
        for name, baseline in card.metrics.get("baselines", {}).items()
    )
    pictures = " ".join(f"![{name}](plots/{name})" for name in PLOT_NAMES if (folder / "plots" / name).exists())
    bars = " | ".join("---" for _ in parts)
    return f"""## Measured on held-out questions: AUROC / ECE / Brier score of `p_now`

| boundaries | number | right | {" | ".join(parts)} |
| --- | --- | --- | {bars} |
{chr(10).join(rows)}

Within a question, right against wrong attempts, AUROC:

| boundaries | questions with both | {" | ".join(parts)} |
| --- | --- | {bars} |
{chr(10).join(within)}

AUROC of one number alone: {alone}.

{pictures}""".rstrip()


def _calibration(card: DmCard) -> str:
    if card.calibration is None:
        return "## Calibration\n\nNot calibrated: `drr calibrate` certifies its thresholds."
    calibration = Calibration.from_json(card.calibration)
    rows = [
        f"| {100 * certificate.max_lost_correct:g} % | {_rule_cells(certificate.rule)} | {certificate.lost} of "
        f"{certificate.right} | {certificate.p_value:.4f} | {100 * certificate.saved:.1f} % | "
        f"{certificate.accuracy_change:+.1f} |"
        for certificate in calibration.certificates
    ]
    percent = 100 * calibration.confidence
    refused = [f"- {100 * float(risk):g} %: {reason}" for risk, reason in calibration.refused.items()]
    questions = ", ".join(f"{count:,} for {use}" for use, count in calibration.questions.items())
    sampling = ", ".join(f"{name} {value}" for name, value in calibration.sampling.items())
    return f"""## Calibration

On {sum(calibration.questions.values()):,} questions that training never saw ({questions}),
sampled with {sampling}. Each line is a promise with
{percent:g} % confidence, for questions like these and requests sampled like these: of the questions that
full thinking gets right{graded_against(calibration)}, no more than this share is lost by stopping early.

| lost at most | `p_now` | in a row | or `p_later` <= | or gain <= | lost | p-value | tokens saved | accuracy, points |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
{chr(10).join(refused)}

{chr(10).join([default_in_words(calibration), *rethink_in_words(calibration)])}""".rstrip()


def _rule_cells(rule: Rule) -> str:
    return f"{_optional(rule.threshold)} | {rule.patience} | {_optional(rule.hopeless)} | {_optional(rule.min_gain)}"


def default_in_words(calibration: Calibration) -> str:
    """One sentence on the default rule: what it does, and whether it surely stays within what it may lose."""
    default = calibration.default
    points = f"{default['max_lost_points']:g} point"
    kept = (
        f"accuracy falls by at most {points} with 95 % confidence (approximate, losses and gains together)"
        if default["kept"]
        else f"no rule was found that surely loses at most {points}: this is the safest"
    )
    return (
        f"Default rule: {rule_in_words(Rule(**default['rule']))}; {kept}. On the calibration questions it saves "
        f"{100 * default['saved']:.1f} % of the tokens, accuracy {default['accuracy_change_points']:+.1f} points."
    )


def rethink_in_words(calibration: Calibration) -> list[str]:
    """For each mode that may reject attempts, a sentence on what is done; none if the calibration has no such modes."""
    return [
        f"Where attempts may be rejected (mode {mode}): {rule_in_words(Rule(**chosen['rule']))}; rejected below "
        f"{chosen['accept']:.4g}. With {chosen['attempts']} attempts that gets {100 * chosen['accuracy']:.1f} % of the "
        f"calibration questions right, with {chosen['tokens']:.0f} tokens."
        for mode, chosen in calibration.rethink.items()
    ]


def graded_against(calibration: Calibration) -> str:
    """A clause that says so if "right" means the rollouts' majority answers; empty for the dataset's answers."""
    return ", graded against the rollouts' majority answers" if calibration.labels == "consistency" else ""


def rule_in_words(rule: Rule) -> str:
    """The rule as text, such as `p_now 0.9, or p_later 0.1 or less, or p_later - p_now 0 or less, 2 in a row`."""
    parts = [] if rule.threshold is None else [f"p_now {rule.threshold:.4g}"]
    if rule.hopeless is not None:
        parts.append(f"p_later {rule.hopeless:.4g} or less")
    if rule.min_gain is not None:
        parts.append(f"p_later - p_now {rule.min_gain:g} or less")
    return f"{', or '.join(parts)}, {rule.patience} in a row" if parts else "never stop early"


def _optional(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _three(figures: dict[str, Any]) -> str:
    return f"{_number(figures['auroc'])} / {figures['ece']:.3f} / {figures['brier']:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
