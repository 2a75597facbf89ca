"""How many replicas, what is drawn and what is told; and the commands."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fleet import __main__ as command
from benchmarks.fleet.arrivals import POISSON
from benchmarks.fleet.constants import read_constants
from benchmarks.fleet.planning import Strategy, Traffic, played, replicas_needed
from benchmarks.fleet.replica import Limits
from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.simulation import Goal
from benchmarks.fleet.work import Work
from benchmarks.pages import SCALING_PAGE
from drr.errors import InputError

TIMES = ServiceTimes(((1, 0.01), (16, 0.02)))
FULL, HALF = Strategy("full", [Work(400)], TIMES), Strategy("half", [Work(200)], TIMES)
TRAFFIC = Traffic(rate=20, seconds=60, shape=POISSON, prompt=10)
GOAL = Goal(e2e=10)


def test_the_fewest_replicas_that_are_enough() -> None:
    found = replicas_needed(FULL, TRAFFIC, Limits(8, 2), GOAL, 0.95)
    assert found is not None
    count, figures = found
    assert figures.good_share >= 0.95 > played(FULL, TRAFFIC, count - 1, Limits(8, 2), GOAL).good_share


def test_half_the_tokens_need_about_half_the_replicas() -> None:
    full, half = (replicas_needed(each, TRAFFIC, Limits(8, 2), GOAL, 0.95) for each in (FULL, HALF))
    assert full is not None
    assert half is not None
    assert 0.4 < half[0] / full[0] < 0.65


def test_no_number_of_replicas_makes_an_answer_faster_than_it_is_alone() -> None:
    assert replicas_needed(FULL, TRAFFIC, Limits(8, 2), Goal(e2e=1.0), 0.95) is None


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with constants of two rounds, two recorded evaluations, and a page."""
    plain = ServiceTimes(((1, 0.01), (16, 0.02)), 1e-5, 0.01, 2.0).plain()
    open_run = {
        "share": 0.5,
        "measured": {"goodput": 1.0, "e2e_mean": 2.0},
        "simulated": {"goodput": 1.1, "e2e_mean": 2.1},
    }
    slower = {**plain, "steps": [[1, 0.02], [16, 0.03]]}
    rounds = [
        {"constants": {"full": each, "judged": each}, "prompt": 20.0, "open": [open_run]} for each in (plain, slower)
    ]
    (tmp_path / "capacity.json").write_text(json.dumps({"running": 8, "waiting": 2, "rounds": rounds}))
    for name, tokens in (("full", 200), ("short", 100)):
        rows = [
            {"tokens": tokens + number, "stop_cause": "natural", "attempts": 1, "right": number % 2 == 0}
            for number in range(20)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    (tmp_path / "page.md").write_text("Before.\n<!-- fleet: written by x -->\n<!-- end of fleet -->\nAfter.\n")
    return tmp_path


def test_a_plan_is_recorded_drawn_and_told(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [f"--record={name}={files}/{name}.parquet" for name in ("full", "short")]
    paths = [f"--constants={files}/capacity.json", f"--out={files}/out", f"--page={files}/page.md"]
    options = ["fleet", "plan", "--replicas=2", "--seconds=180", *records, *paths]
    monkeypatch.setattr("sys.argv", options)
    assert command.main() == 0
    found = json.loads((files / "out" / "fleet.json").read_text())
    needed = {(row["shape"], row["strategy"]): row["replicas"] for row in found["needed"] if row["slower"] == 1.5}
    assert needed["poisson", "short"] < needed["poisson", "full"]
    assert {row["router"] for row in found["routed"]} == {"round robin", "least loaded", "affinity"}
    assert (files / "out" / "plan.png").stat().st_size > 10_000
    assert (files / "out" / "check.png").stat().st_size > 10_000
    page = (files / "page.md").read_text()
    assert page.startswith("Before.\n<!-- fleet: written by python -m benchmarks.fleet report -->\nConstants from ")
    assert "\n\nSimulated: 3 minutes" in page
    assert page.endswith("<!-- end of fleet -->\nAfter.\n")
    assert f"| Poisson | short | 110 (-48 %) | {needed['poisson', 'short']} (" in page


def test_constants_are_the_medians_of_the_rounds(files: Path) -> None:
    found = read_constants(files / "capacity.json")
    assert [seconds for _, seconds in found.full.steps] == pytest.approx([0.015, 0.025])
    assert (found.judged.restart, found.limits) == (2.0, Limits(8, 2))
    assert len(found.rounds) == 2


def test_constants_of_the_wall_clock_are_clients_by_tokens_a_second(tmp_path: Path) -> None:
    path = tmp_path / "results.json"

    def load(clients: int, raw: float, shadow: float | None) -> dict[str, Any]:
        judged = {} if shadow is None else {"DRR, shadow": [{"tokens_per_second": shadow}]}
        return {"clients": clients, "runs": {"raw vLLM": [{"tokens_per_second": raw}], **judged}}

    path.write_text(json.dumps({"measured": [load(48, 1600, 1200), load(48, 9999, None), load(1, 200, 100)]}))
    found = read_constants(path)
    assert found.full.steps == ((1, 0.005), (48, 0.03))
    assert found.judged.steps == ((1, 0.01), (48, 0.04))
    assert found.limits == Limits(48, 12)
    path.write_text(json.dumps({"measured": [load(48, 9999, None)]}))
    with pytest.raises(InputError, match="no constants"):
        read_constants(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--constants=nowhere.json", "--page=none"], "benchmarks.capacity measure"),
        (["plan", "--seconds=10", "--page=none"], "--seconds"),
        (["shape", "README.md"], "TIMESTAMP"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_sentence(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fleet", *arguments])
    assert command.main() != 0
    assert said in capsys.readouterr().err


def test_the_shape_of_a_trace_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.csv"
    moments = [f"2023-11-16 18:{minute:02}:{second:02}.5" for minute in range(5) for second in range(0, 60, 2)]
    path.write_text("\n".join(["TIMESTAMP", *moments]))
    monkeypatch.setattr("sys.argv", ["fleet", "shape", str(path)])
    assert command.main() == 0
    assert "gap_cv 0.01" in capsys.readouterr().out


def test_the_page_has_its_sections() -> None:
    text = SCALING_PAGE.read_text()
    assert "<!-- fleet: written by python -m benchmarks.fleet report -->" in text
    assert "<!-- capacity: written by python -m benchmarks.capacity report -->" in text
