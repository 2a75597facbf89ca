"""`drr report`: what a running server has done, what stopping saves and loses by live canaries, what needs care."""

import argparse
import json
import os
import sys

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drr.certify.canary import Interval
from drr.cli.live_metrics import read_metrics
from drr.cli.live_report import BROKEN, KEPT, LiveReport, RuleReport
from drr.cli.options import API_KEY_VARIABLE
from drr.errors import InputError
from drr.judge.drift import DRIFT_LIMIT, LEAST_RESPONSES

_TOKENS = ("thinking", "answer", "discarded", "probe", "injected")


def run(options: argparse.Namespace) -> None:
    """Read the server's metrics once, and print what they say."""
    if options.api_key_env and options.api_key_env not in os.environ:
        raise InputError("--api-key-env", f"the environment has no {options.api_key_env}")
    key = os.environ.get(options.api_key_env or API_KEY_VARIABLE)
    report = LiveReport.of(read_metrics(options.server, key))
    if options.json:
        sys.stdout.write(json.dumps(report.to_json(), indent=1) + "\n")
        return
    show(report, options.server, Console())


def show(report: LiveReport, url: str, console: Console) -> None:
    """The report, for people."""
    console.print(Text(f"DRR at {url}, since it was started", style="bold"))
    console.print(_facts(report))
    console.print(Columns(_totals(report), padding=(0, 6)))
    if report.rules:
        console.print(_canaries(report.rules))
        for note in _left_out(report.rules):
            console.print(note, style="dim", highlight=False)
    if not report.rules:
        console.print(
            "No canaries: what stopping saves and loses is not known (drr serve --drr-canary-share).", highlight=False
        )
    for warning in _warnings(report):
        console.print(f"! {warning}", style="bold red", highlight=False)


def _facts(report: LiveReport) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    engines = {**report.engines, **({} if report.dm_up is None or "dm" in report.engines else {"dm": report.dm_up})}
    table.add_row("engines", ", ".join(f"{name} {'up' if up else 'DOWN'}" for name, up in engines.items()) or "unknown")
    table.add_row("requests", f"{report.running} running, {report.waiting} waiting{_refusals(report)}")
    median, late = report.judge_seconds["p50"], report.judge_seconds["p95"]
    if report.scores:
        timed = "" if median is None or late is None else f", {_ms(median)} (p50), {_ms(late)} (p95)"
        table.add_row("scores", f"{report.scores:,}{timed}; {report.late:,} late, {report.failed:,} failed")
        table.add_row("drift", _drift(report))
    if report.attempts:
        fates = ", ".join(f"{count:,} {fate}" for fate, count in _largest_first(report.attempts))
        table.add_row("attempts", f"{fates}; {report.nudges:,} closes refused")
    return table


def _refusals(report: LiveReport) -> str:
    refused = "".join(f"; {count:,} refused ({status})" for status, count in sorted(report.refused.items()))
    return refused + "".join(f"; {count:,} cut by {reason}" for reason, count in sorted(report.cut.items()))


def _drift(report: LiveReport) -> str:
    if report.drift_scores < LEAST_RESPONSES:
        return f"not known yet: {report.drift_scores} of {LEAST_RESPONSES} first scores, or a DM without a calibration"
    if report.drift is None:
        return "not known"
    return f"{report.drift:.2f} ({'above' if report.drifted else 'within'} the limit of {DRIFT_LIMIT})"


def _totals(report: LiveReport) -> list[Table]:
    causes = _table(f"{report.responses:,} responses", "thinking ended by", "responses", "share")
    for cause, count in _largest_first(report.stop_causes):
        causes.add_row(cause, f"{count:,}", _percent(count / report.responses))
    total = sum(count for kind, count in report.tokens.items() if kind != "injected")
    tokens = _table(f"{total:,} tokens generated", "fate", "tokens", "share")
    for kind in _TOKENS:
        count = report.tokens.get(kind, 0)
        tokens.add_row(kind, f"{count:,}", "" if kind == "injected" or not total else _percent(count / total))
    return [table for table, shown in ((causes, report.responses), (tokens, total)) if shown]


def _canaries(rules: list[RuleReport]) -> Table:
    table = _table(
        "Canaries: answers changed, right answers lost (and promised), tokens saved; in percent, 95 % intervals",
        *("judge", "rule", "canaries", "stops", "changed", "lost", "promised", "saved"),
    )
    for rule in rules:
        style = {KEPT: "green", BROKEN: "bold red"}.get(rule.promise or "", "")
        told = "" if rule.promised is None else f"{100 * rule.promised:.1f}\n{rule.promise}"
        at = "" if rule.stop_tokens is None else f"\nat {rule.stop_tokens:,.0f}"
        table.add_row(
            rule.judge,
            rule.rule,
            f"{rule.canaries:,}",
            f"{rule.stops:,}{at}",
            _interval(rule.changed),
            _interval(rule.lost_correct),
            Text(told, style=style),
            _interval(rule.saving),
        )
    return table


def _left_out(rules: list[RuleReport]) -> list[str]:
    """Canaries that say nothing (dropped), or nothing about answers (unread)."""
    counts = [(rule, f"{rule.dropped:,} dropped") for rule in rules if rule.dropped]
    counts += [(rule, f"{rule.unread:,} unread") for rule in rules if rule.unread]
    return [f"{rule.judge}, {rule.rule}: {told}" for rule, told in counts]


def _warnings(report: LiveReport) -> list[str]:
    warnings = [f"the engine of {name} does not answer" for name, up in report.engines.items() if not up]
    if report.dm_up is False:
        warnings.append("the DM is gone: thinking runs in full")
    if report.drifted:
        warnings.append("live scores have left those of the calibration: calibrate again on questions of now")
    broken = [rule for rule in report.rules if rule.promise == BROKEN]
    warnings += [f"{rule.judge}, rule {rule.rule}: more right answers are lost than promised" for rule in broken]
    return warnings


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 or column == "rule" else "right")
    return table


def _interval(found: Interval | None) -> str:
    if found is None:
        return "not known"
    return f"{100 * found.estimate:.1f}\n{100 * found.low:.1f} to {100 * found.high:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
