"""`drr report`: what it makes of a server's metrics, and what it says where there are none."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from drr.cli.live_metrics import LiveMetrics, read_metrics
from drr.cli.live_report import BROKEN, KEPT, LiveReport
from drr.cli.main import main
from drr.cli.report_command import show
from drr.errors import InputError
from drr.failures import BAD_INPUT
from server import metrics
from tests.local_http import answering

RECORDED = Path(__file__).parent / "metrics.txt"
"""Of a server of the reference pair with the same head twice, on which every response could be a canary; DRR's part."""

Served = Callable[[str, int], str]


def report_of(text: str) -> LiveReport:
    return LiveReport.of(LiveMetrics.parse(text))


def shown(report: LiveReport) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    show(report, "http://server:8000", console)
    return console.export_text()


def with_values(**changes: float) -> str:
    """The recorded metrics with other values; a key is a part of the sample before its value."""
    lines = []
    for line in RECORDED.read_text().splitlines():
        found = next(
            (value for part, value in changes.items() if part in line.replace('"', "") and line[0] != "#"), None
        )
        lines.append(line if found is None else f"{line.rsplit(' ', 1)[0]} {found}")
    return "\n".join(lines) + "\n"


def test_a_server_has_all_these_metrics() -> None:
    own = [value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)]
    served = {family.name for metric in own for family in metric.collect()}
    shown = {family.name for family in text_string_to_metric_families(RECORDED.read_text())}
    assert shown <= served
    assert len(shown) > 20


def test_the_metrics_are_all_read() -> None:
    report = report_of(RECORDED.read_text())
    assert report.engines == {"reasoner": True}
    assert report.responses == sum(report.stop_causes.values()) == sum(report.modes.values()) > 0
    assert set(report.tokens) >= {"thinking", "answer", "probe"}
    assert report.scores > 0
    assert report.judge_seconds["p50"] is not None
    assert {rule.judge for rule in report.rules} == {"dm", "dm:new"}
    for rule in report.rules:
        assert rule.canaries > 0
        assert rule.promised == pytest.approx(0.0526)
        for interval in (rule.changed, rule.lost_correct, rule.saving):
            assert interval is not None
            assert interval.low <= interval.estimate <= interval.high


def test_what_is_shown_names_what_an_operator_asks_for() -> None:
    text = shown(report_of(RECORDED.read_text()))
    for part in (
        "reasoner up",
        "responses",
        "probe",
        "dm:new",
        "right answers lost (and promised)",
        "promised",
        "drift",
    ):
        assert part in text
    assert "!" not in text, "nothing needs care"


def test_what_needs_care_is_said() -> None:
    text = shown(report_of(with_values(**{"drr_engine_up{engine=reasoner}": 0, "drr_dm_up": 0})))
    assert "! the engine of reasoner does not answer" in text
    assert "! the DM is gone" in text


def test_a_promise_is_kept_broken_or_not_known_yet() -> None:
    kept = report_of(with_values(**{"drr_canary_right_total{judge=dm,kind=full,": 9000}))
    assert {rule.judge: rule.promise for rule in kept.rules}["dm"] == KEPT
    broken = {
        "drr_canary_right_total{judge=dm,kind=lost,": 60,
        "drr_canary_right_total{judge=dm,kind=lost_at_most,": 70,
    }
    report = report_of(with_values(**broken, **{"drr_canary_right_total{judge=dm,kind=full,": 300}))
    assert {rule.judge: rule.promise for rule in report.rules}["dm"] == BROKEN
    assert "! dm, rule default: more right answers are lost than promised" in shown(report)


def test_drift_is_told_only_on_enough_scores() -> None:
    few = report_of(with_values(**{"drr_dm_drift": 2.0, "drr_dm_first_scores_total{": 1}))
    assert few.drift is None
    assert not few.drifted
    many = report_of(with_values(**{"drr_dm_drift": 2.0, "drr_dm_first_scores_total{": 500}))
    assert many.drifted
    assert "live scores have left those of the calibration" in shown(many)


def test_a_server_without_canaries_says_how_to_have_some() -> None:
    bare = "\n".join(line for line in RECORDED.read_text().splitlines() if "drr_canary" not in line)
    report = report_of(f"{bare}\n")
    assert report.rules == []
    assert "--drr-canary-share" in shown(report)


def test_json_is_the_same_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(RECORDED.read_text()) as url:
        assert main(["report", "--server", f"{url}/v1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(report_of(RECORDED.read_text()).to_json()))


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("{}", 401, "needs a key: name the variable that holds it (--api-key-env) (HTTP 401)"),
        ("", 404, "answers HTTP 404"),
        ("up 1\n", 200, "has no drr_responses: no server of DRR's answers there"),
        ("<html>not metrics at all</html>", 200, "does not answer with metrics"),
    ],
)
def test_what_is_no_server_of_ours_is_said_in_a_sentence(
    text: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with answering(text, status) as url, pytest.raises(InputError) as error:
        read_metrics(url)
    assert str(error.value).startswith(f"--server: {url}/metrics ")
    assert said in str(error.value)


def test_a_key_that_is_not_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering("{}", 401) as url, pytest.raises(InputError, match="does not take this key"):
        read_metrics(url, "a-key-of-no-use")


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--server", "http://127.0.0.1:9"]) == BAD_INPUT
    assert "does not answer" in capsys.readouterr().err


def test_a_variable_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--server", "http://127.0.0.1:9", "--api-key-env", "NO_SUCH_KEY"]) == BAD_INPUT
    assert "the environment has no NO_SUCH_KEY" in capsys.readouterr().err
