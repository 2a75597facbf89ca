"""Measured constants of a replica, from either of two records.

`benchmarks.capacity measure` gives all of them. Where that has not been run, `benchmarks.wall_clock` gives the steps:
at so many clients a step takes clients / tokens a second. It knows nothing of prompts, stops and time outside the
engine, which count nothing then: what they cost is in the steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fleet.replica import Limits
from benchmarks.fleet.service import ServiceTimes
from drr.errors import InputError
from drr.files import read_json_object

_RAW, _JUDGED = "raw vLLM", "DRR, shadow"
_PROMPT = 45
"""Tokens of a reference question's prompt, about; they cost nothing where the record does not say what they cost."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Service times of a server that thinks in full (`full`) and of one that judges (`judged`), its limits, tokens of a
    prompt, where all of it is from, and the runs that were held out (`rounds` of the capacity measurement)."""

    full: ServiceTimes
    judged: ServiceTimes
    limits: Limits
    prompt: int
    source: str
    rounds: Sequence[Mapping[str, Any]]


def read_constants(path: Path) -> Constants:
    """The constants in this record. InputError where there is none, or it holds none."""
    if not path.exists():
        raise InputError(str(path), "is not there: python -m benchmarks.capacity measure makes it")
    record = read_json_object(path)
    try:
        return _of_rounds(record) if "rounds" in record else _of_wall_clock(record)
    except (KeyError, TypeError) as error:
        raise InputError(str(path), "holds no constants of a server") from error


def _of_rounds(record: Mapping[str, Any]) -> Constants:
    rounds = record["rounds"]
    full, judged = (_median([each["constants"][name] for each in rounds]) for name in ("full", "judged"))
    prompt = round(float(np.median([each["prompt"] for each in rounds])))
    limits = Limits(record["running"], record["waiting"])
    return Constants(full, judged, limits, prompt, f"benchmarks.capacity, {len(rounds)} rounds", rounds)


def _median(each: Sequence[Mapping[str, Any]]) -> ServiceTimes:
    batches = [batch for batch, _ in each[0]["steps"]]
    steps = tuple(
        (batch, float(np.median([one["steps"][place][1] for one in each]))) for place, batch in enumerate(batches)
    )
    rest = {name: float(np.median([one[name] for one in each])) for name in ("prefill", "request", "restart")}
    return ServiceTimes(steps, **rest)


def _of_wall_clock(record: Mapping[str, Any]) -> Constants:
    """Of the loads on which every boundary was judged and nothing was stopped."""
    loads = [load for load in record["measured"] if _JUDGED in load["runs"]]
    if not loads:
        raise KeyError(_JUDGED)
    full, judged = (
        ServiceTimes(tuple(sorted((load["clients"], _step(load, server)) for load in loads)))
        for server in (_RAW, _JUDGED)
    )
    most = max(load["clients"] for load in loads)
    return Constants(full, judged, Limits(most, -(-most // 4)), _PROMPT, "benchmarks.wall_clock", ())


def _step(load: Mapping[str, Any], server: str) -> float:
    return float(load["clients"]) / float(np.median([run["tokens_per_second"] for run in load["runs"][server]]))
