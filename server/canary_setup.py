"""The canaries that a server's flags ask for."""

import argparse
from collections.abc import Sequence

from drr.errors import InputError
from drr.judge.calibration import Calibration
from server import metrics
from server.admission.middleware import Door
from server.canaries import DEFAULT_RULE, Canaries, ShadowDm
from server.judges import Dm
from server.runtime import DrrRuntime


def canaries_of(args: argparse.Namespace, runtime: DrrRuntime, dms: Sequence[Dm], door: Door) -> Canaries | None:
    """Those of `--drr-canary-share`, None without it. InputError where no judge would stop anything."""
    if args.drr_canary_share is None:
        return None
    judge, defaults = runtime.defaults.scorer, runtime.defaults
    own = defaults.calibration if judge == "dm" else defaults.calibrations.get(str(judge))
    rules = [] if own is None else list(own.rules.values())
    rules += [defaults.rule] if judge == "dm" and own is None and defaults.rule is not None else []
    if rules and all(rule.never_ends for rule in rules):
        raise InputError("--drr-canary-share", "has no effect: no rule of this judge ever stops anything")
    _promise(str(judge), own)
    beside = []
    for name in args.drr_shadow_dm or ():
        dm = next(dm for dm in dms if dm.name == name)
        beside.append(ShadowDm(name, dm.scorer, defaults.beside[name]))
        _promise(f"dm:{name}", defaults.beside[name].calibration)
    return Canaries(args.drr_canary_share, beside, busy=lambda: door.closed is not None or door.gate.waiting > 0)


def _promise(judge: str, calibration: Calibration | None) -> None:
    """Say in metrics what the calibration promises of each rule."""
    if calibration is None:
        return
    for certificate in calibration.certificates:
        risk = certificate.max_lost_correct
        metrics.CANARY_PROMISE.labels(judge, f"{100 * risk:g} % lost").set(risk)
    measured = calibration.default.get("lost_correct_rate")
    if measured is not None:
        metrics.CANARY_PROMISE.labels(judge, DEFAULT_RULE).set(measured)
