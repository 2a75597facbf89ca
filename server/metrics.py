"""drr's own Prometheus metrics. A response is one choice of one request, however many engine requests it took."""

import logging

from prometheus_client import Counter, Gauge, Histogram

from drr.judge.drift import DriftWatch
from drr.loop.response import Outcome, StepReport

logger = logging.getLogger("drr")

RESPONSES = Counter("drr_responses", "Responses by mode and by what ended their thinking.", ["mode", "stop_cause"])
DECISIONS = Counter("drr_decisions", "Verdicts at step boundaries.", ["verdict"])
TOKENS = Counter(
    "drr_tokens",
    "Tokens by fate: thinking and answer were kept, discarded were generated in vain, probes by a "
    "scorer's questions, injected were never generated.",
    ["kind"],
)
ATTEMPTS = Counter("drr_attempts", "Attempts of responses that may reject some, by their fate.", ["fate"])
NUDGES = Counter("drr_nudges", "Closes of the thinking that were refused.")
LATE = Counter("drr_dm_late", "Scores that missed their deadline.")
FAILED = Counter("drr_dm_failed", "Scores that failed.")
SCORES = Histogram(
    "drr_dm_p_now",
    "Scores of step boundaries: probability that an answer now is right.",
    buckets=[i / 20 for i in range(1, 21)],
)
LATENCY = Histogram(
    "drr_dm_seconds",
    "Seconds from a closed step to its score.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
DM_TOKENS = Counter("drr_dm_tokens", "Tokens of the DM's input: computed, or found in its prefix cache.", ["kind"])
THINKING = Histogram(
    "drr_thinking_tokens", "Thinking tokens kept per response.", buckets=[2**power for power in range(3, 16)]
)
FIRST_SCORES = Counter(
    "drr_dm_first_scores",
    "Judged attempts by the calibration's bin of p_later at their first boundary; absent without a calibration.",
    ["bin"],
)
DRIFT = Gauge(
    "drr_dm_drift",
    "Population stability index of those bins against the calibration; above 0.25 the questions have changed.",
)
DM_UP = Gauge("drr_dm_up", "1 while the DM answers, 0 once its engine is gone; absent without a DM.")

REFUSED = Counter(
    "drr_refused",
    "Requests that were not begun, by the HTTP status that says why; left: the client was gone.",
    ["status"],
)
CUT = Counter("drr_cut", "Responses that were ended from outside: by time, stall or shutdown.", ["reason"])
RUNNING = Gauge("drr_requests_running", "Requests whose turn it is.")
WAITING = Gauge("drr_requests_waiting", "Requests that wait for their turn.")
ENGINE_UP = Gauge("drr_engine_up", "1 while the engine answers, 0 where it is gone or hangs.", ["engine"])
LOG_LOST = Counter("drr_log_lost", "Writes to the log for which its disk had no room, by the API server.")
DM_RESTARTS = Counter("drr_dm_restarts", "Starts of the DM's engine after the first, by how they ended.", ["outcome"])


def observe_step(step: StepReport) -> None:
    """Count one decided boundary."""
    DECISIONS.labels(step.verdict.value).inc()
    if step.p_now is not None:
        SCORES.observe(step.p_now)
    if step.ms is not None:
        LATENCY.observe(step.ms / 1000)


def observe_dm_tokens(computed: int, cached: int) -> None:
    """Count one input of the DM."""
    DM_TOKENS.labels("computed").inc(computed)
    DM_TOKENS.labels("cached").inc(cached)


def observe_first_score(watch: DriftWatch, p_later: float) -> None:
    """Count an attempt's first score; says once in the log when live scores have left the calibration's."""
    drifted = watch.drifted
    FIRST_SCORES.labels(str(watch.observe(p_later))).inc()
    DRIFT.set(watch.index)
    if watch.drifted and not drifted:
        logger.warning(
            "Live scores have drifted from the calibration's (stability index %.2f over %d attempts): the certified "
            "risks hold for questions like the calibration's. Calibrate again on current ones.",
            watch.index,
            watch.responses,
        )


def observe_outcome(mode: str, outcome: Outcome) -> None:
    """Count one finished response."""
    RESPONSES.labels(mode, outcome.stop_cause.value).inc()
    answer = outcome.generated_tokens - outcome.discarded_tokens - outcome.thinking_tokens
    TOKENS.labels("thinking").inc(outcome.thinking_tokens)
    TOKENS.labels("discarded").inc(outcome.discarded_tokens)
    TOKENS.labels("probe").inc(outcome.probe_tokens)
    TOKENS.labels("injected").inc(outcome.injected_tokens)
    TOKENS.labels("answer").inc(max(0, answer))
    NUDGES.inc(outcome.nudges)
    for attempt in outcome.attempts:
        ATTEMPTS.labels(attempt.fate.value).inc()
    LATE.inc(outcome.late)
    FAILED.inc(outcome.failed)
    THINKING.observe(outcome.thinking_tokens)


def observe_aborted(mode: str) -> None:
    """Count one choice whose client went away, or whose engine failed, before it was complete."""
    RESPONSES.labels(mode, "aborted").inc()
