"""The metrics of a running server, as `drr report` and benchmarks read them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from drr.certify.canary import CanarySums
from drr.checks import check_url
from drr.engine.served import authorization
from drr.errors import InputError

_OURS = "drr_responses"
"""A metric that every server of ours has, from its start."""

_SECONDS = 10.0
_CANARY = {"drr_canary_responses_total": "outcome", "drr_canary_tokens_total": "kind"}
_CANARY |= {"drr_canary_token_products_total": "kind", "drr_canary_right_total": "kind"}
"""Metrics of canaries, and the label that says what is counted."""

_RIGHT = {"full": "right"}
"""What the parts of drr_canary_right are called here, where that differs."""


@dataclass(frozen=True, slots=True)
class LiveMetrics:
    """The samples of one reading: name, labels, value."""

    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> "LiveMetrics":
        """From Prometheus' text format; ValueError where it is none."""
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(text)
        return cls([(one.name, dict(one.labels), float(one.value)) for family in families for one in family.samples])

    def of(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """The labels and values of one metric."""
        return ((labels, value) for found, labels, value in self.samples if found == name)

    def total(self, name: str) -> float:
        """The sum of a metric over its labels; 0 without it."""
        return sum(value for _, value in self.of(name))

    def value(self, name: str) -> float | None:
        """A metric without labels; None where it is absent or has no value."""
        found = [value for _, value in self.of(name) if value == value]
        return found[0] if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of a metric by one of its labels."""
        sums: dict[str, float] = {}
        for labels, value in self.of(name):
            sums[labels.get(label, "")] = sums.get(labels.get(label, ""), 0.0) + value
        return sums

    def canaries(self) -> dict[tuple[str, str], CanarySums]:
        """The sums over canaries by judge and rule."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        for metric, label in _CANARY.items():
            for labels, value in self.of(metric):
                sums = found.setdefault((labels["judge"], labels["rule"]), {})
                part = labels[label]
                sums[_RIGHT.get(part, part) if metric == "drr_canary_right_total" else part] = value
        return {names: CanarySums.of(sums) for names, sums in found.items()}


def read_metrics(url: str, key: str | None = None) -> LiveMetrics:
    """The metrics of the server at `url`. InputError where nobody answers there, where it wants another key, or where
    it is no server of DRR's."""
    check_url("--server", url)
    address = url.rstrip("/").removesuffix("/v1") + "/metrics"
    try:
        response = httpx.get(address, timeout=_SECONDS, headers=authorization(key))
    except httpx.HTTPError as error:
        raise InputError("--server", f"{address} does not answer: {error}") from error
    if response.status_code in (401, 403):
        told = (
            "needs a key: name the variable that holds it (--api-key-env)" if key is None else "does not take this key"
        )
        raise InputError("--server", f"{address} {told} (HTTP {response.status_code})")
    if response.status_code != 200:
        raise InputError("--server", f"{address} answers HTTP {response.status_code}")
    try:
        metrics = LiveMetrics.parse(response.text)
    except ValueError as error:
        raise InputError("--server", f"{address} does not answer with metrics: {error}") from error
    if f"# TYPE {_OURS} counter" not in response.text and f"# TYPE {_OURS}_total counter" not in response.text:
        raise InputError("--server", f"{address} has no {_OURS}: no server of DRR's answers there")
    return metrics
