"""What an operator wants to know of a running server, worked out from one reading of its metrics."""

from dataclasses import asdict, dataclass
from typing import Any

from drr.certify.canary import CanarySums, Interval, changed, lost_correct, saving
from drr.cli.live_metrics import LiveMetrics
from drr.judge.drift import DRIFT_LIMIT, LEAST_RESPONSES

KEPT, BROKEN, OPEN = "kept", "broken", "open"
"""What live canaries say of a promise."""


@dataclass(frozen=True, slots=True)
class RuleReport:
    """What canaries say of one rule of one judge. `promised` is the share of right answers that it may lose by its
    calibration, None without one; `promise` whether that is kept."""

    judge: str
    rule: str
    canaries: int
    dropped: int
    unread: int
    stops: int
    stop_tokens: float | None
    changed: Interval | None
    lost_correct: Interval | None
    saving: Interval | None
    promised: float | None
    promise: str | None


@dataclass(frozen=True, slots=True)
class LiveReport:
    """Everything that is shown, as plain data."""

    engines: dict[str, bool]
    dm_up: bool | None
    running: int
    waiting: int
    refused: dict[str, int]
    cut: dict[str, int]
    responses: int
    stop_causes: dict[str, int]
    modes: dict[str, int]
    tokens: dict[str, int]
    attempts: dict[str, int]
    nudges: int
    verdicts: dict[str, int]
    judge_seconds: dict[str, float | None]
    scores: int
    late: int
    failed: int
    drift: float | None
    drift_scores: int
    drifted: bool
    rules: list[RuleReport]

    @classmethod
    def of(cls, metrics: LiveMetrics) -> "LiveReport":
        """From one reading."""

        def counts(name: str, label: str) -> dict[str, int]:
            return {key: int(value) for key, value in metrics.by(name, label).items() if value}

        dm_up, drift = metrics.value("drr_dm_up"), metrics.value("drr_dm_drift")
        first_scores = int(metrics.total("drr_dm_first_scores_total"))
        knows = first_scores >= LEAST_RESPONSES
        return cls(
            engines={labels["engine"]: value == 1 for labels, value in metrics.of("drr_engine_up")},
            dm_up=None if dm_up is None else dm_up == 1,
            running=int(metrics.total("drr_requests_running")),
            waiting=int(metrics.total("drr_requests_waiting")),
            refused=counts("drr_refused_total", "status"),
            cut=counts("drr_cut_total", "reason"),
            responses=int(metrics.total("drr_responses_total")),
            stop_causes=counts("drr_responses_total", "stop_cause"),
            modes=counts("drr_responses_total", "mode"),
            tokens=counts("drr_tokens_total", "kind"),
            attempts=counts("drr_attempts_total", "fate"),
            nudges=int(metrics.total("drr_nudges_total")),
            verdicts=counts("drr_decisions_total", "verdict"),
            judge_seconds={f"p{share}": _quantile(metrics, "drr_dm_seconds", share / 100) for share in (50, 95)},
            scores=int(metrics.total("drr_dm_p_now_count")),
            late=int(metrics.total("drr_dm_late_total")),
            failed=int(metrics.total("drr_dm_failed_total")),
            drift=drift if knows else None,
            drift_scores=first_scores,
            drifted=knows and drift is not None and drift > DRIFT_LIMIT,
            rules=[_rule(metrics, *names, sums) for names, sums in sorted(metrics.canaries().items())],
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data; intervals are objects of `estimate`, `low` and `high`."""
        return asdict(self)


def _rule(metrics: LiveMetrics, judge: str, rule: str, sums: CanarySums) -> RuleReport:
    def own(name: str) -> float | None:
        found = [value for labels, value in metrics.of(name) if (labels["judge"], labels["rule"]) == (judge, rule)]
        return found[0] if found else None

    stops, thought = own("drr_canary_stop_tokens_count") or 0.0, own("drr_canary_stop_tokens_sum") or 0.0
    promised, lost = own("drr_canary_promised_lost_correct"), lost_correct(sums)
    return RuleReport(
        judge,
        rule,
        canaries=int(sums.compared),
        dropped=int(sums.dropped),
        unread=int(sums.unread),
        stops=int(stops),
        stop_tokens=thought / stops if stops else None,
        changed=changed(sums),
        lost_correct=lost,
        saving=saving(sums),
        promised=promised,
        promise=None if promised is None else _promise(promised, lost),
    )


def _promise(promised: float, lost: Interval | None) -> str:
    if lost is None:
        return OPEN
    return KEPT if lost.high <= promised else BROKEN if lost.low > promised else OPEN


def _quantile(metrics: LiveMetrics, histogram: str, share: float) -> float | None:
    """A quantile of a histogram, linear inside a bucket, as Prometheus has it; None without samples."""
    sums = metrics.by(f"{histogram}_bucket", "le")
    buckets = sorted((float(edge), count) for edge, count in sums.items())
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    before_edge, before = 0.0, 0.0
    for edge, count in buckets:
        if count >= share * total:
            inside = (share * total - before) / (count - before) if count > before else 1.0
            return before_edge if edge == float("inf") else before_edge + inside * (edge - before_edge)
        before_edge, before = edge, count
    return before_edge
