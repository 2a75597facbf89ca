"""drr's own Prometheus metrics. A response is one choice of one request, however many engine requests it took."""

import logging
import math
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
    "Population stability index of those bins against the calibration, over the newest 2,000 attempts; above 0.25 the "
    "questions have changed. Not a number before there are 200.",
)
DM_UP = Gauge("drr_dm_up", "1 while the DM answers, 0 once its engine is gone; absent without a DM.")

CANARIES = Counter(
    "drr_canary_responses",
    "Canaries (responses that think in full where the judge's rule may stop) by what that rule would have done to the "
    "answer. whole: it would not have stopped; agreed, changed: the answers are compared; unread: the full answer "
    "cannot be read; dropped: nothing was compared.",
    ["judge", "rule", "outcome"],
)
CANARY_TOKENS = Counter(
    "drr_canary_tokens",
    "Tokens of compared canaries: full is what they took, would what the rule would have taken, probe what was "
    "generated beside them to find that out.",
    ["judge", "rule", "kind"],
)
CANARY_PRODUCTS = Counter(
    "drr_canary_token_products",
    "Sums over compared canaries of full and would tokens multiplied, for the interval of the saving.",
    ["judge", "rule", "kind"],
)
CANARY_RIGHT = Counter(
    "drr_canary_right",
    "Compared canaries by the judge's probabilities, so without a gold answer: full is how many full answers are "
    "expected to be right; lost, and lost_at_most, how many of those the rule would have lost.",
    ["judge", "rule", "kind"],
)
CANARY_STOPS = Histogram(
    "drr_canary_stop_tokens",
    "Thinking tokens after which the rule would have stopped a canary.",
    ["judge", "rule"],
    buckets=[2**power for power in range(3, 16)],
)
CANARY_PROMISE = Gauge(
    "drr_canary_promised_lost_correct",
    "Share of right answers that a rule may lose by its judge's calibration; absent without one.",
    ["judge", "rule"],
)

REFUSED = Counter(
    "drr_refused",
    "Requests that were not begun, by the HTTP status that says why; left: the client was gone.",
    ["status"],
)
CUT = Counter("drr_cut", "Responses that were ended from outside: by time, stall or shutdown.", ["reason"])
RUNNING = Gauge("drr_requests_running", "Requests whose turn it is.")
WAITING = Gauge("drr_requests_waiting", "Requests that wait for their turn.")
ENGINE_UP = Gauge("drr_engine_up", "1 while the engine answers, 0 where it is gone or hangs.", ["engine"])
UPSTREAM_REQUESTS = Counter(
    "drr_upstream_requests",
    "Requests to the upstream of --upstream by how they ended: ok, closed by us, or a fault (refused, busy, "
    "unavailable, malformed, cut, timeout); retried: tries after the first.",
    ["outcome"],
)
UPSTREAM_TOKENS = Counter(
    "drr_upstream_tokens",
    "Tokens that the upstream has billed, or that are estimated where it did not say: prompt (cached ones among it), "
    "cached, completion.",
    ["kind"],
)
UPSTREAM_OPEN = Gauge("drr_upstream_open", "Requests to the upstream that are under way.")
LOG_LOST = Counter("drr_log_lost", "Writes to the log for which its disk had no room, by the API server.")
DM_RESTARTS = Counter("drr_dm_restarts", "Starts of the DM's engine after the first, by how they ended.", ["outcome"])


LOG_ROWS = Counter(
    "drr_decision_log_rows", "Responses for the decision log, by what became of them: written or dropped.", ["outcome"]
)
LOG_BYTES = Counter("drr_decision_log_bytes", "Bytes written into the decision log.")
LOG_FAILURES = Counter("drr_decision_log_failures", "Files of the decision log that could not be written.")


class DecisionLogWatcher:
    """Counts what becomes of the rows of a decision log."""

    def __init__(self) -> None:
        for outcome in ("written", "dropped"):
            LOG_ROWS.labels(outcome)  # 0 is told, too

    def written(self, rows: int, size: int) -> None:
        """A file of so many rows and bytes has been finished."""
        LOG_ROWS.labels("written").inc(rows)
        LOG_BYTES.inc(size)

    def dropped(self, rows: int) -> None:
        """So many rows are lost."""
        LOG_ROWS.labels("dropped").inc(rows)

    def failed(self) -> None:
        """A file could not be written."""
        LOG_FAILURES.inc()


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
    DRIFT.set(watch.index if watch.knows else math.nan)
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


def observe_upstream_tokens(prompt: int, cached: int, completion: int) -> None:
    """Count what one request to the upstream took."""
    for kind, tokens in (("prompt", prompt), ("cached", cached), ("completion", completion)):
        UPSTREAM_TOKENS.labels(kind).inc(tokens)


def observe_plain(responses: int, tokens: int, ended: Ended | None = None) -> None:
    """Count what vLLM has made alone; `ended` as above."""
    RESPONSES.labels("plain", ended or "off").inc(responses)
    TOKENS.labels("plain").inc(tokens)
