"""Requests made from the server's own OpenAPI document: those that it describes, and those that it does not."""

import random
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation.modes import GenerationMode

FITTING, UNFIT = GenerationMode.POSITIVE, GenerationMode.NEGATIVE

LIMIT = 60.0
"""Seconds after which a request counts as hanging."""

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/chat/completions/batch")
_FEW = dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"), 8)
_MOST = _FEW | {"n": 2, "best_of": 2, "max_rethinks": 1, "parallel": 2}
"""The most that a request may ask for: one that is right and asks for a million choices is no fault."""

VLLMS_FAULTS: dict[tuple[str, str], str] = {}
"""5xx of vLLM's own, by path and words of the message, with the reason."""


def load(url: str) -> Any:
    """The document of a running server."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def fault(case: Any) -> str | None:
    """Ask, and say what is wrong with the answer; None where nothing is."""
    _keep_small(case)
    try:
        response = case.call(timeout=LIMIT)
    except requests.exceptions.Timeout:
        return f"no answer within {LIMIT:g} s\n{case.as_curl_command()}"
    except requests.exceptions.ConnectionError as error:
        return f"no answer: {error!r}\n{case.as_curl_command()}"
    if response.status_code < 500 or any(
        path == case.path and re.search(words, response.text) for path, words in VLLMS_FAULTS
    ):
        return None
    return f"HTTP {response.status_code}: {response.text[:1000]}\n{case.as_curl_command()}"


def _keep_small(case: Any) -> None:
    if not isinstance(case.body, dict):
        return
    for place in (case.body, case.body.get("drr")):
        for name, most in _MOST.items() if isinstance(place, dict) else ():
            value = place.get(name)
            if isinstance(value, int) and value > most:
                place[name] = most
    if case.path in GENERATING and "max_output_tokens" not in case.body:
        case.body.setdefault("max_output_tokens" if case.path == "/v1/responses" else "max_tokens", 8)


def try_many(
    operation: Any, mode: GenerationMode, count: int, on_fault: Callable[[str], None], seed: int | None = None
) -> None:
    """Ask `count` requests that the document describes, or that it does not. The same seed makes the same requests;
    without one they are the same every time."""

    @settings(
        max_examples=count,
        derandomize=seed is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        found = fault(case)
        if found is not None:
            on_fault(found)

    (ask if seed is None else hypothesis.seed(seed)(ask))()


@dataclass(frozen=True)
class Share:
    """What one operation gets of all examples."""

    label: str
    operation: Any
    mode: GenerationMode
    count: int


def shares(document: Any, examples: int) -> list[Share]:
    """All operations of the document, which share the examples: one that takes a body gets ten times as many, half of
    them unfit."""
    found = [result.ok() for result in document.get_all_operations()]
    weights = [10 if list(operation.body) else 1 for operation in found]
    made = []
    for operation, weight in zip(found, weights, strict=True):
        count = max(1, round(examples * weight / sum(weights)))
        halves = ((FITTING, -(-count // 2)), (UNFIT, count // 2)) if weight > 1 else ((FITTING, count),)
        made += [Share(f"{operation.label}, {mode.value}", operation, mode, each) for mode, each in halves if each]
    return made


def run(url: str, seed: int, examples: int, known: Collection[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Ask all operations but the `known`; the label of each, and what was wrong."""
    for share in shares(load(url), examples):
        if share.label in known:
            continue
        faults: list[str] = []
        # Hypothesis draws from Python's own generator where a strategy does.
        random.seed(seed)
        try_many(share.operation, share.mode, share.count, faults.append, seed)
        sys.stdout.write(f"seed {seed}: {share.label}: {share.count} asked, {len(faults)} wrong\n")
        sys.stdout.flush()
        yield share.label, faults
