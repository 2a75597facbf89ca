"""The benchmark of canaries: how it resamples, what it makes of groups, and that the page has its table."""

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.canary import OUT, Group, Truth, _read, _report, _sums_of, coverage, precision_table
from drr.certify.canary import CanarySums, lost_correct, saving

PAGE = Path(__file__).parents[2] / "docs" / "canary.md"


def groups_of(count: int, size: int = 20, *, believed: float = 1.0) -> list[Group]:
    """Groups of a judge that expects `believed` times the losses that there are."""
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(count):
        right, stopped = rng.random(size) < 0.8, rng.random(size) < 0.5
        lost = stopped & right & (rng.random(size) < 0.05)
        changed = lost | (stopped & ~right & (rng.random(size) < 0.5))
        full = rng.lognormal(5, 0.6, size)
        would = np.where(stopped, full / 2, full)
        sums = CanarySums(
            whole=float((~stopped).sum()),
            agreed=float((stopped & ~changed).sum()),
            changed=float(changed.sum()),
            full=float(full.sum()),
            would=float(would.sum()),
            full_full=float((full**2).sum()),
            full_would=float((full * would).sum()),
            would_would=float((would**2).sum()),
            right=0.8 * size,
            lost=believed * 0.02 * size,
            lost_at_most=believed * 0.025 * size,
        )
        counts = (int(right.sum()), int(right.sum() - lost.sum()), int(lost.sum()))
        groups.append(Group(size, asdict(sums), *counts, int(full.sum()), int(would.sum())))
    return groups


def test_the_truth_is_what_grading_says() -> None:
    groups = [Group(2, {}, 2, 1, 1, 100, 60), Group(2, {}, 2, 2, 0, 100, 80)]
    assert Truth.of(groups) == Truth(lost_correct=0.25, saving=1 - 140 / 200)


def test_good_estimates_cover_the_truth_and_bad_ones_do_not() -> None:
    held = coverage(groups_of(60))
    assert held["lost_correct"] >= 95
    assert held["saving"] >= 90
    assert coverage(groups_of(60, believed=6.0))["lost_correct"] < 50


def test_the_report_names_truth_and_coverage() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    _report(groups_of(10), console)
    text = console.export_text()
    for part in ("200 reference questions", "right answers lost", "tokens saved", "graded", "of 100 resamples held"):
        assert part in text


def test_the_page_has_the_table() -> None:
    assert precision_table() in PAGE.read_text(), "write it with: python -m benchmarks.canary --precision"


def test_the_page_has_what_was_measured() -> None:
    groups, page = _read(OUT), PAGE.read_text()
    sums, truth = _sums_of(groups), Truth.of(groups)
    held = coverage(groups)
    for name, found, known in (
        ("right answers lost", lost_correct(sums), truth.lost_correct),
        ("tokens saved", saving(sums), truth.saving),
    ):
        assert found is not None
        ends = f"{100 * found.low:.1f} to {100 * found.high:.1f} %"
        assert f"| {name} | {100 * found.estimate:.1f} % | {ends} | {100 * known:.1f} %" in page
    assert f"| {held['lost_correct']} of 100 |" in page
    assert f"| {held['saving']} of 100 |" in page
    assert min(held.values()) >= 95
