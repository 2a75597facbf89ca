"""Tables of where a DM's skill comes from, and of recorded thinking traces: Markdown from recorded figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from drr.evaluate.tables import markdown_table

_PHASES = {
    "all": "all boundaries",
    "first": "first answer",
    "last": "end",
    "within_question_first": "within a question, first answer",
    "within_question_last": "within a question, end",
}


def parts_table(skill: Mapping[str, Any]) -> str:
    """Every part of a DM, on the boundaries of all test questions, then its AUROC at the end set by set."""
    found = skill["parts"]
    families = list(next(iter(found.values()))["families"])
    rows = [
        [name, *(_auroc(part["all"].get(phase)) for phase in _PHASES), _ece(part["all"])]
        for name, part in found.items()
    ]
    by_set = [
        [name, *(_auroc(part["families"][family].get("last")) for family in families)] for name, part in found.items()
    ]
    ends = markdown_table(["at the end", *families], by_set)
    return f"{markdown_table(['', *_PHASES.values(), 'ECE'], rows)}\n\n{ends}\n\n{_choosing(found)}"


def transfer_table(found: Mapping[str, Any]) -> str:
    """A row for every set: heads made from the others, from all, and from it alone."""
    rows = []
    for family, made in found.items():
        for name in ("others", "all", "alone"):
            if name in made:
                figures = [made[name].get(phase) for phase in ("all", "last", "within_question_last")]
                trained = f"{made['questions'][name]:,}"
                rows.append([family, name, trained, *map(_auroc, figures), _ece(made[name])])
    head = ["tested on", "trained on", "questions", "all boundaries", "end", "within a question, end", "ECE"]
    return markdown_table(head, rows)


def curve_table(curve: Sequence[Mapping[str, Any]]) -> str:
    """A row for every number of training questions: means over the runs, with the least and the most."""
    names = ("all", "last", "within_question_last", "ece")
    rows = [[f"{point['questions']:,}", *(_over_runs(point, name) for name in names)] for point in curve]
    return markdown_table(["training questions", "all boundaries", "end", "within a question, end", "ECE"], rows)


def remedies_table(found: Mapping[str, Any]) -> str:
    """A row for every way to make a head: what it knows at the ends of attempts, and by how much more than the usual
    head."""
    families = list(next(iter(found.values()))["families"])
    rows = []
    for name, one in found.items():
        within = one["within_question_last"]
        by_set = [_auroc(one["families"][family].get("within_question_last")) for family in families]
        rows.append([name, _auroc(one["last"]), _auroc(within), _difference(one["gained"]), *by_set])
    head = ["head", "end", "within a question", "gained within a question", *families]
    return markdown_table(head, rows)


def _difference(gained: Mapping[str, Any]) -> str:
    if "within_question_last" not in gained:
        return ""
    found = gained["within_question_last"]
    low, high = found["interval"]
    return f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def traces_table(traces: Sequence[Mapping[str, Any]]) -> str:
    """A row for every file of recorded solutions: how well a text DM knows them, and what an oracle could save."""
    head = [
        "solutions",
        "attempts (right)",
        "tested on",
        "end",
        "within a question, end",
        "outcome, at all boundaries",
        "best of 4 by DM",
        "majority",
        "random",
        "any",
        "oracle: thinking behind the first right answer, stated or read",
    ]
    rows = [
        [
            one["source"],
            f"{one['attempts']:,} ({100 * one['right']:.0f} %)",
            f"{one['questions']['measured on']:,} questions",
            _auroc(one["now"].get("last")),
            _auroc(one["now"].get("within_question_last")),
            _auroc(one["later"].get("all")),
            *_best_of(one["now"]),
            " or ".join(_percent(one["oracle"][reading]["tokens"]) for reading in ("stated", "read")),
        ]
        for one in traces
    ]
    return markdown_table(head, rows)


def _choosing(found: Mapping[str, Any]) -> str:
    """The best of the attempts at every question, chosen by every part."""
    rows = [[name, *_best_of(part["all"])] for name, part in found.items() if part["all"]["best_of"]["questions"]]
    return markdown_table(["one of the attempts", "by score", "majority", "random", "any"], rows)


def _best_of(figures: Mapping[str, Any]) -> list[str]:
    best = figures["best_of"]
    if not best["questions"]:
        return ["-"] * 4
    edges = best["intervals"]["by_score"]
    chosen = f"{100 * best['by_score']:.1f} % [{100 * edges[0]:.1f}, {100 * edges[1]:.1f}]"
    return [chosen, *(f"{100 * best[name]:.1f} %" for name in ("majority", "random", "oracle"))]


def _auroc(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["auroc"] is None:
        return "-"
    edges = figure["interval"]
    return f"{figure['auroc']:.3f}" + (f" [{edges[0]:.3f}, {edges[1]:.3f}]" if edges else "")


def _ece(figures: Mapping[str, Any]) -> str:
    return f"{figures['all']['ece']:.3f}"


def _over_runs(point: Mapping[str, Any], name: str) -> str:
    if name not in point["mean"]:
        return "-"
    least, most = point["range"][name]
    several = f" ({least:.3f} to {most:.3f})" if len(point["runs"]) > 1 else ""
    return f"{point['mean'][name]:.3f}{several}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
