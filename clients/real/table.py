"""What arrives in each client, as a table: one row per call, one column per question that a user has."""

from collections.abc import Callable, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from clients.real.results import Result
from clients.real.run import ABSTAIN

HEADINGS = ("client", "call", "works", "thinking", "DRR's account", "usage", "refusal")
_NOTHING, _DOES_NOT_APPLY = "no", ""

Row = tuple[str, ...]


def rows(results: Sequence[Result]) -> list[Row]:
    """A row for each call of each client, in the order in which they were made. Cells are as Markdown."""
    calls: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        calls.setdefault((result.client, result.version, result.call), []).append(result)
    return [_row(f"{client} {version}".strip(), call, own) for (client, version, call), own in calls.items()]


def markdown(results: Sequence[Result], skipped: Mapping[str, str]) -> str:
    lines = [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
    lines += [_line([cell.replace("|", "\\|") for cell in row]) for row in rows(results)]
    lines += ["", *[f"{name} was skipped: {reason}." for name, reason in skipped.items()]] if skipped else []
    return "\n".join(lines)


def rich_table(results: Sequence[Result]) -> Table:
    table = Table(*HEADINGS, show_lines=True)
    for row in rows(results):
        table.add_row(*[escape(cell.replace("`", "")) for cell in row])
    return table


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(client: str, call: str, results: Sequence[Result]) -> Row:
    answers = [result for result in results if result.variant != ABSTAIN]
    seen = [result for result in answers if result.works]
    texts = [result for result in seen if result.seen.get("content") is not None]
    refused = [result for result in results if result.variant == ABSTAIN and result.cannot is None]
    return (
        client,
        f"`{call}`",
        _works(answers),
        _by_variant(texts, _thinking),
        _by_variant(texts, _account),
        _by_variant(texts, _usage),
        _refusal(refused[0]) if refused and texts else _DOES_NOT_APPLY,
    )


def _works(results: Sequence[Result]) -> str:
    """ "yes", or which variants work and what happens in the others."""
    fails = [result for result in results if result.trouble]
    works = [result.variant for result in results if result.works]
    parts = [] if not works else ["yes"] if not fails else [", ".join(works)]
    parts += [f"{names}: {trouble}" for trouble, names in _grouped({own.variant: _short(own) for own in fails})]
    unsendable = [result.variant for result in results if result.cannot is not None]
    parts += [f"{', '.join(unsendable)} cannot be sent"] if unsendable else []
    return "; ".join(parts)


def _short(result: Result) -> str:
    """The kind of the error alone; what it says is in the record."""
    return (result.trouble or "").partition(":")[0]


def _grouped(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """(value, the names that have it) for each value."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return [(value, ", ".join(names)) for value, names in groups.items()]


def _by_variant(results: Sequence[Result], tell: Callable[[Result], str]) -> str:
    """What all variants have, or what each has."""
    groups = _grouped({result.variant: tell(result) for result in results})
    if len(groups) < 2:
        return groups[0][0] if groups else _DOES_NOT_APPLY
    return "; ".join(f"{value} ({names})" for value, names in groups)


def _place(path: str) -> str:
    return f"`{path.replace('choices[0].', '')}`"


def _thinking(result: Result) -> str:
    texts: Mapping[str, str] = result.seen.get("thinking", {})
    if not texts:
        return _NOTHING
    place = min(texts, key=len)
    whole = result.seen.get("facts", {}).get("thinking_length", 0)
    return f"{_place(place)}, only the last piece" if len(texts[place]) < whole else _place(place)


def _account(result: Result) -> str:
    places = [_place(path) for path in result.seen.get("account", {})]
    return ", ".join(places + (["header"] if result.seen.get("header") else [])) or _NOTHING


def _usage(result: Result) -> str:
    usage: Mapping[str, int | None] = result.seen.get("usage") or {}
    completion, reasoning = usage.get("completion"), usage.get("reasoning")
    if completion is None:
        return _NOTHING if result.seen.get("facts", {}).get("usage_asked", True) else "not asked for"
    if reasoning is None:
        return "completion only"
    return "yes" if 0 < reasoning <= completion else f"wrong: {reasoning} of {completion} are reasoning"


def _refusal(result: Result) -> str:
    if result.trouble is not None:
        return _short(result)
    places = [_place(path) for path in result.seen.get("refusal", {})]
    return ", ".join(places) or ("as content" if result.seen.get("content") else _NOTHING)
