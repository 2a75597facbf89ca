"""What DRR's flags of `drr serve` must be, and which of them need or exclude each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drr.checks import check_out_folder, check_range, check_url
from drr.engine.devices import parse_cpus
from drr.engine.upstream.cost import Prices
from drr.errors import InputError
from drr.loop.steps import StepRule

NEEDS: dict[str, tuple[str, ...]] = {
    "dm_allow_mismatch": ("dm",),
    "dm_url": ("dm",),
    "dm_dtype": ("dm",),
    "dm_kv_cache_memory_bytes": ("dm",),
    "dm_gpu_memory_utilization": ("dm",),
    "dm_cpus": ("dm",),
    "dm_nice": ("dm",),
    "dm_beside": ("dm",),
    "prm_gpu_memory_utilization": ("prm",),
    **{f"drr_decision_log_{name}": ("drr_decision_log",) for name in ("share", "text", "seconds", "mb", "total_mb")},
    **{f"upstream_{name}": ("upstream",) for name in ("model", "key_env", "tier", "price", "timeout")},
    "drr_canary_share": ("dm", "drr_scorer"),
    "drr_shadow_dm": ("drr_canary_share",),
}
"""Flags, by their names in the namespace, that have no effect without one of others."""

_ABOVE_ZERO = (
    *("dm_deadline_ms", "drr_answer_tokens"),
    *("drr_key_running", "drr_key_tokens", "drr_max_running", "drr_max_body_bytes", "drr_max_messages"),
    "drr_max_branches",
    *("drr_request_seconds", "drr_stall_seconds"),
    "upstream_timeout",
    *("drr_decision_log_seconds", "drr_decision_log_mb", "drr_decision_log_total_mb"),
)
_NOT_BELOW_ZERO = ("drr_max_waiting", "drr_shutdown_lead")

_LEAST_CACHE = 1 << 20
"""Bytes; no classifier's cache holds a single input in fewer."""

NOT_REMOTE = ("dm_dtype", "dm_kv_cache_memory_bytes", "dm_gpu_memory_utilization", "dm_cpus", "dm_nice")
"""Flags about an engine of the DM's, which is not here with --dm-url."""


NOT_UPSTREAM = ("drr_reasoner_cpus",)
"""Flags about an engine of the Reasoner's, which is not here with --upstream."""


def check_flags(given: Mapping[str, Any], *, dm: bool) -> None:
    """InputError names the first flag that is out of range or of no use. `given` holds those that were given, by their
    names in the namespace; `dm` says whether there is a DM."""
    _check_values(given)
    there = {**given, "dm": dm}
    for name, others in NEEDS.items():
        if name in given and not any(there.get(other) for other in others):
            raise InputError(flag(name), f"needs {' or '.join(map(flag, others))}")
    if "dm_url" in given:
        for name in NOT_REMOTE:
            if name in given:
                raise InputError(flag(name), "has no effect: the DM runs at --dm-url, not here")
    if "upstream" in given:
        for name in NOT_UPSTREAM:
            if name in given:
                raise InputError(flag(name), "has no effect: the Reasoner runs at --upstream, not here")
    mode, scorer = given.get("drr_mode"), given.get("drr_scorer")
    if mode in ("auto", "shadow") and not dm and not scorer:
        raise InputError(f"--drr-mode {mode}", "needs --dm or --drr-scorer")
    if mode == "off" and "drr_canary_share" in given:
        raise InputError(
            "--drr-canary-share", "has no effect: with --drr-mode off only requests that ask for it are judged"
        )
    if scorer in ("dm", "prm") and not there.get(scorer):
        raise InputError(f"--drr-scorer {scorer}", f"needs --{scorer}")


def check_log_folder(folder: str | None) -> None:
    """InputError where the decision log could never be written."""
    if folder:
        check_out_folder("--drr-decision-log", Path(folder))


def check_kind(given: Mapping[str, Any], kind: str) -> None:
    """InputError for a flag about an engine that a DM of this kind does not have. `given` as in `check_flags`."""
    if kind != "head":
        return
    for name in ("dm_url", *NOT_REMOTE):
        if name in given:
            raise InputError(flag(name), "has no effect: this DM is a head, which runs inside the Reasoner's engine")


def _check_values(given: Mapping[str, Any]) -> None:
    if "dm_nice" in given and not 0 <= given["dm_nice"] <= 19:
        raise InputError("--dm-nice", f"must be from 0 to 19, not {given['dm_nice']}")
    for name in _ABOVE_ZERO:
        if given.get(name) is not None:
            check_range(flag(name), given[name], above=0)
    for name in _NOT_BELOW_ZERO:
        if given.get(name) is not None:
            check_range(flag(name), given[name], least=0)
    if "drr_decision_log_share" in given:
        check_range("--drr-decision-log-share", given["drr_decision_log_share"], above=0, most=1)
    if given.get("drr_decision_log_mb", 0) > given.get("drr_decision_log_total_mb", 1024):
        raise InputError("--drr-decision-log-total-mb", "is less than one file has (--drr-decision-log-mb)")
    if given.get("dm_kv_cache_memory_bytes") is not None:
        check_range("--dm-kv-cache-memory-bytes", given["dm_kv_cache_memory_bytes"], least=_LEAST_CACHE)
    for name in ("dm_gpu_memory_utilization", "prm_gpu_memory_utilization"):
        if name in given:
            check_range(flag(name), given[name], above=0, below=1)
    for name in ("dm_cpus", "drr_reasoner_cpus"):
        if name in given:
            parse_cpus(flag(name), given[name])
    names = [entry.partition("=")[0] for entry in given.get("dm_beside") or ()]
    for entry, name in zip(given.get("dm_beside") or (), names, strict=True):
        if not name.strip() or not entry.partition("=")[2].strip() or names.count(name) > 1:
            raise InputError("--dm-beside", f"must be NAME=FOLDER, each name once, not {entry!r}")
    for name in given.get("drr_shadow_dm") or ():
        if name not in names or given["drr_shadow_dm"].count(name) > 1:
            known = ", ".join(names) or "none"
            raise InputError("--drr-shadow-dm", f"must name DMs of --dm-beside ({known}), each once, not {name!r}")
    if given.get("drr_canary_share") is not None:
        check_range("--drr-canary-share", given["drr_canary_share"], above=0, most=1)
    for name in ("dm_url", "upstream"):
        if name in given:
            check_url(flag(name), given[name])
    Prices.parse(given.get("upstream_price"))
    if "drr_step_rule" in given:
        try:
            StepRule.parse(given["drr_step_rule"])
        except ValueError as error:
            raise InputError("--drr-step-rule", str(error)) from error
    if "drr_answer_cue" in given and not given["drr_answer_cue"].strip():
        raise InputError("--drr-answer-cue", "must not be blank: the Reasoner is made to answer by it")


def flag(name: str) -> str:
    """The flag behind a name in the namespace."""
    return f"--{name.replace('_', '-')}"
