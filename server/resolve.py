"""From a request's `drr` object and the server's defaults to effective settings; nothing is ever ignored."""

from dataclasses import replace

from drr.judge.calibration import Certificate
from drr.judge.scorers.registry import ACCEPTS, LEAST_ACCEPTED, THRESHOLDS
from drr.loop.rule import Rule
from server.schema import DrrError, DrrRequest, Mode
from server.settings import Defaults, Settings

_REJECTING_KEYS = ("max_rethinks", "rethink", "accept", "on_exhausted", "parallel", "rethink_temperature")
"""Keys that mean nothing unless attempts may be rejected."""

_JUDGED_KEYS = (
    "scorer",
    "threshold",
    "max_lost_correct",
    "min_steps",
    "min_step_tokens",
    "patience",
    "nudge",
    *_REJECTING_KEYS,
)
"""Keys that mean nothing unless somebody judges."""


def resolve(
    request: DrrRequest | None, forced_mode: Mode | None, defaults: Defaults, *, beam_search: bool = False
) -> Settings:
    """The effective settings; DrrError where the request contradicts itself or asks for what is not there.

    `forced_mode` comes from a model alias (`<name>:drr`, `<name>:full`).
    """
    explicit = request is not None or forced_mode is not None
    asked = request or DrrRequest()
    if forced_mode is not None and asked.mode not in (None, forced_mode):
        raise DrrError("drr.mode", f"the model alias asks for {forced_mode}, the drr object for {asked.mode}")
    mode = asked.mode or forced_mode or defaults.mode
    defaults = _of_scorer(asked, defaults)
    mode = _checked_mode(asked, mode, forced_mode, defaults)
    certificate = _certificate(asked, mode, defaults)
    judged = mode != "off" and (asked.max_lost_correct is None or certificate is not None)
    max_rethinks = _first(asked.max_rethinks, defaults.max_rethinks if mode == "rethink" else 0)
    rejects = judged and mode != "shadow" and (max_rethinks > 0 or asked.on_exhausted == "abstain")
    if rejects:
        defaults = _thinking_again(mode, defaults, again=max_rethinks > 0)
    rule = _rule(asked, mode, certificate, defaults) if judged else Rule(None)
    limited = asked.max_thinking_tokens is not None or asked.max_steps is not None
    acts = limited or (judged and mode != "shadow")
    if not acts and mode in ("off", "shadow"):
        _refuse(asked, ("answer_tokens",), f"has no effect in mode {mode} without max_thinking_tokens or max_steps")
    _check_rethinking(asked, max_rethinks, rejects=rejects, can_stop=defaults.can_stop)
    accept = defaults.accept if asked.accept is None else asked.accept
    return Settings(
        mode=mode,
        threshold=rule.threshold,
        hopeless=rule.hopeless,
        min_gain=rule.min_gain,
        max_lost_correct=asked.max_lost_correct,
        min_steps=_first(asked.min_steps, 1),
        max_steps=asked.max_steps,
        min_step_tokens=_first(asked.min_step_tokens, 0),
        patience=rule.patience,
        max_thinking_tokens=asked.max_thinking_tokens,
        answer_tokens=_first(asked.answer_tokens, defaults.answer_tokens if acts else 0),
        nudge=_first(asked.nudge, defaults.nudge if judged and mode != "shadow" else 0),
        nudge_below=defaults.nudge_below,
        max_rethinks=max_rethinks,
        rethink=asked.rethink or "fresh",
        accept=accept if rejects else None,
        on_exhausted=asked.on_exhausted or "best",
        parallel=_first(asked.parallel, 1),
        rethink_temperature=asked.rethink_temperature or defaults.rethink_temperature,
        scorer=defaults.scorer if judged else None,
        report=asked.report or "steps",
        thinking_in=asked.thinking_in or defaults.thinking_in,
        explicit=explicit,
        beam_search=beam_search,
        certificate=certificate,
        calibration=defaults.calibration,
    )


def _checked_mode(asked: DrrRequest, mode: Mode, forced_mode: Mode | None, defaults: Defaults) -> Mode:
    """The mode, once keys that would have no effect in it have been refused."""
    if defaults.rule is None:
        why = "needs a judge, and this server was started without a DM (--dm); name one with drr.scorer"
        if mode in ("stop", "shadow", "rethink"):
            raise DrrError("drr.mode", f"{mode} {why}")
        _refuse(asked, _JUDGED_KEYS, why)
        mode = "off"
    elif asked.mode is None and forced_mode is None and asked.scorer is not None and mode == "off":
        mode = "auto"  # a server without a DM does not judge by itself
    if mode == "off":
        _refuse(asked, _JUDGED_KEYS, "has no effect in mode off")
    if mode == "shadow":
        _refuse(asked, ("nudge", *_REJECTING_KEYS), "has no effect in mode shadow")
    if mode == "stop":
        _refuse(asked, _REJECTING_KEYS, "has no effect in mode stop, which rejects nothing; use auto or rethink")
    if mode == "rethink":
        why = "belongs to stopping early, which mode rethink does not do; mode auto does both"
        _refuse(asked, ("threshold", "max_lost_correct", "patience"), why)
    if not defaults.can_stop:
        _refuse(
            asked,
            ("max_thinking_tokens", "max_steps", "thinking_in"),
            "this server does not know how the model closes thinking",
        )
    return mode


def _of_scorer(asked: DrrRequest, defaults: Defaults) -> Defaults:
    """The defaults where `asked.scorer` judges, or who judges by default."""
    name = asked.scorer or defaults.scorer
    if name is None or (name == "dm" and asked.scorer is None):
        return defaults
    if name == "dm":
        if defaults.rule is None:
            raise DrrError("drr.scorer", "this server was started without a DM (--dm)")
        return replace(defaults, scorer="dm")
    if name == "prm" and not defaults.has_prm:
        raise DrrError("drr.scorer", "this server was started without a process reward model (--prm)")
    if not defaults.can_stop:
        raise DrrError("drr.scorer", "this server does not know how the model closes thinking")
    calibration = defaults.calibrations.get(name)
    accept = ACCEPTS.get(name, LEAST_ACCEPTED)
    return replace(
        defaults,
        scorer=name,
        rule=Rule(THRESHOLDS[name]) if calibration is None else calibration.rules["default"],
        accept=accept,
        calibration=calibration,
        nudge=0,
        nudge_below=accept,
    )


def _thinking_again(mode: Mode, defaults: Defaults, *, again: bool) -> Defaults:
    """The defaults where attempts may be rejected: with what was calibrated for that, if anything was. The rule that
    goes with it is for those that may be made `again`."""
    found = None if defaults.calibration is None else defaults.calibration.thinking_again(mode)
    if found is None:
        return defaults
    rule, accept = found
    return replace(defaults, rule=rule if again else defaults.rule, accept=accept)


def _check_rethinking(asked: DrrRequest, max_rethinks: int, *, rejects: bool, can_stop: bool) -> None:
    if rejects and not can_stop:
        raise DrrError("drr.max_rethinks", "this server does not know how the model closes thinking")
    if max_rethinks == 0:
        _refuse(asked, ("rethink", "parallel", "rethink_temperature"), "has no effect without max_rethinks")
    if not rejects:
        _refuse(asked, ("accept", "on_exhausted"), "has no effect without max_rethinks")
    if _first(asked.parallel, 1) > max_rethinks + 1:
        raise DrrError("drr.parallel", f"is more than the {max_rethinks + 1} attempts that max_rethinks allows")
    if asked.rethink == "in_context" and _first(asked.parallel, 1) > 1:
        raise DrrError("drr.parallel", "attempts at the same time cannot see each other; use rethink fresh")


def _certificate(asked: DrrRequest, mode: Mode, defaults: Defaults) -> Certificate | None:
    """The certified rule for the risk asked for; None under `auto` and `shadow` where there is none for it."""
    if asked.max_lost_correct is None:
        return None
    if defaults.calibration is None:
        raise DrrError("drr.max_lost_correct", "this judge has not been calibrated (drr calibrate); use drr.threshold")
    _refuse(asked, ("patience",), "is part of the certified rule that max_lost_correct chooses")
    found = defaults.calibration.for_risk(asked.max_lost_correct)
    if found is None and mode == "stop":
        certified = ", ".join(f"{risk:g}" for risk in defaults.calibration.risks) or "none"
        raise DrrError(
            "drr.max_lost_correct",
            f"no rule of this judge is certified for a risk of {asked.max_lost_correct:g}; "
            f"certified risks: {certified}",
        )
    return found


def _rule(asked: DrrRequest, mode: Mode, certificate: Certificate | None, defaults: Defaults) -> Rule:
    """The stopping rule: the certified one, the client's threshold, or the DM's own; in mode rethink what there is of
    the latter to give a hopeless attempt up."""
    default = defaults.rule
    assert default is not None
    if mode == "rethink":
        return replace(default, threshold=None, min_gain=None)
    if certificate is not None:
        return certificate.rule
    patience = _first(asked.patience, default.patience)
    return Rule(asked.threshold, patience) if asked.threshold is not None else replace(default, patience=patience)


def _refuse(asked: DrrRequest, keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if key in asked.given():
            raise DrrError(f"drr.{key}", why)


def _first(value: int | None, default: int) -> int:
    return default if value is None else value
