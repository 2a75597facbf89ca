"""drr's own Prometheus metrics. A response is one choice of one request, however many engine requests it took."""

import logging
from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from drr.judge.drift import DriftWatch
from drr.loop.policy import Verdict
from drr.loop.response import Fate, Outcome, StepReport
from server.keys import Mode

logger = logging.getLogger("drr")

Ended = Literal["aborted", "failed", "refused"]
"""How a response ends that is not complete."""

RESPONSES = Counter(
    "drr_responses",
    "Responses by mode and by what ended their thinking; aborted: the client left or was cut off; failed: the engine "
    "did not go on; refused: the engine did not take the request. Mode plain: made by vLLM alone.",
    ["mode", "stop_cause"],
)
DECISIONS = Counter("drr_decisions", "Verdicts at step boundaries.", ["verdict"])
TOKENS = Counter(
    "drr_tokens",
    "Tokens by fate, also of responses that ended early: thinking and answer were kept, discarded were generated in "
    "vain, probes by a scorer's questions, injected were never generated. Plain ones are of responses that vLLM makes "
    "alone, which are not told apart.",
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
    "Seconds from a closed step to its score; a late one counts with its deadline.",
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
DM_RESTARTS = Counter("drr_dm_restarts", "Starts of the DM's engine after the first, by how they ended.", ["outcome"])


def _tell_zeros() -> None:
    """Have what alerts go by be there from the beginning: Prometheus sees no rise from nothing to one."""
    for mode in (*get_args(Mode), "plain"):
        for ended in get_args(Ended):
            RESPONSES.labels(mode, ended)
    for status in ("400", "401", "413", "429", "503", "504", "left"):
        REFUSED.labels(status)
    for reason in ("time", "stall", "shutdown"):
        CUT.labels(reason)
    for kind in ("thinking", "answer", "discarded", "probe", "injected", "plain"):
        TOKENS.labels(kind)
    for verdict in Verdict:
        DECISIONS.labels(verdict.value)
    for fate in Fate:
        ATTEMPTS.labels(fate.value)
    for outcome in ("started", "failed"):
        DM_RESTARTS.labels(outcome)


_tell_zeros()


def observe_step(step: StepReport, deadline: float) -> None:
    """Count one decided boundary, whose score had so many seconds to come."""
    DECISIONS.labels(step.verdict.value).inc()
    if step.p_now is not None:
        SCORES.observe(step.p_now)
    if step.late:
        LATENCY.observe(deadline)
    elif step.ms is not None:
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


def observe_outcome(mode: str, outcome: Outcome, ended: Ended | None = None) -> None:
    """Count one response that is over; `ended` tells what ended it before it was complete."""
    RESPONSES.labels(mode, ended or outcome.stop_cause.value).inc()
    TOKENS.labels("thinking").inc(outcome.thinking_tokens)
    TOKENS.labels("discarded").inc(outcome.discarded_tokens)
    TOKENS.labels("probe").inc(outcome.probe_tokens)
    TOKENS.labels("injected").inc(outcome.injected_tokens)
    TOKENS.labels("answer").inc(max(0, outcome.answer_tokens))
    NUDGES.inc(outcome.nudges)
    for attempt in outcome.attempts:
        ATTEMPTS.labels(attempt.fate.value).inc()
    LATE.inc(outcome.late)
    FAILED.inc(outcome.failed)
    if ended is None:
        THINKING.observe(outcome.thinking_tokens)


def observe_plain(responses: int, tokens: int, ended: Ended | None = None) -> None:
    """Count what vLLM has made alone; `ended` as above."""
    RESPONSES.labels("plain", ended or "off").inc(responses)
    TOKENS.labels("plain").inc(tokens)
