"""From a request's `drr` object and the server's defaults to effective settings; nothing is ever ignored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from drr.judge.calibration import Certificate
from drr.judge.scorers.registry import ACCEPTS, LEAST_ACCEPTED, THRESHOLDS
from drr.loop.rule import Rule
from server.keys import KEYS, Mode, Need
from server.schema import DrrError, DrrRequest
from server.settings import Defaults, Settings

_GREEDY = 1e-5
"""Below this temperature nothing is sampled."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for beside its `drr` object. `forced_mode` comes from a model alias (`<name>:drr`,
    `<name>:full`); `temperature` is what it is sampled at; `thinking_token_budget` is vLLM's own limit; `explicit`
    tells that it brought a `drr` object."""

    forced_mode: Mode | None = None
    temperature: float = 1.0
    thinking_token_budget: int | None = None
    beam_search: bool = False
    explicit: bool = False


NOTHING = Asked()


def resolve(request: DrrRequest | None, defaults: Defaults, beside: Asked = NOTHING) -> Settings:
    """The effective settings; DrrError where the request contradicts itself or asks for what is not there."""
    asked = request or DrrRequest()
    defaults = _of_scorer(asked, defaults)
    mode = _mode(asked, beside.forced_mode, defaults)
    situation = _situation(asked, mode, defaults, beside)
    _check_keys(asked, mode, situation)
    _check_contradictions(asked, situation)
    rejects, judged, rule = situation.rejects, situation.judged, situation.rule
    limited = any(value is not None for value in (asked.max_thinking_tokens, asked.max_steps, asked.answer_tokens))
    acts = limited or (judged and mode != "shadow")
    abstains = rejects and asked.on_exhausted == "abstain"
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
        thinking_token_budget=beside.thinking_token_budget,
        answer_tokens=_first(asked.answer_tokens, defaults.answer_tokens if acts else 0),
        nudge=situation.nudge,
        nudge_below=defaults.nudge_below if asked.nudge_below is None else asked.nudge_below,
        max_rethinks=situation.max_rethinks,
        rethink=asked.rethink or "fresh",
        accept=_accept(asked, mode, defaults) if rejects else None,
        on_exhausted=asked.on_exhausted or "best",
        parallel=_first(asked.parallel, 1),
        rethink_temperature=asked.rethink_temperature or defaults.rethink_temperature,
        refusal=(asked.refusal or defaults.refusal) if abstains else None,
        separator=_separator(asked, defaults) if situation.shows_separator else None,
        scorer=defaults.scorer if judged else None,
        dm=asked.dm if judged else None,
        report=asked.report or ("summary" if mode == "off" else "steps"),
        thinking_in=asked.thinking_in or defaults.thinking_in,
        explicit=beside.explicit,
        beam_search=beside.beam_search,
        certificate=situation.certificate,
        calibration=defaults.calibration,
    )


@dataclass(frozen=True, slots=True)
class _Situation:
    """What a request's keys meet. `rule` is the stopping rule that applies; `uncertified` tells that a risk was asked
    for that there is no certified rule for."""

    judge: bool
    judged: bool
    can_stop: bool
    rejects: bool
    max_rethinks: int
    certificate: Certificate | None
    uncertified: bool
    rule: Rule
    nudge: int
    abstains: bool
    shows_separator: bool
    greedy: bool
    thinks: bool


def _situation(asked: DrrRequest, mode: Mode, defaults: Defaults, beside: Asked) -> _Situation:
    judge, risk = defaults.rule is not None, asked.max_lost_correct is not None
    certificate = _certificate(asked, mode, defaults) if risk and judge and mode in ("auto", "stop", "shadow") else None
    max_rethinks = _first(asked.max_rethinks, defaults.max_rethinks if mode == "rethink" else 0)
    abstains = asked.on_exhausted == "abstain"
    rejects = judge and mode in ("auto", "rethink") and (max_rethinks > 0 or abstains)
    uncertified = risk and certificate is None
    needed = mode == "shadow" or rejects or bool(asked.nudge)  # by something else than an early stop
    judged = judge and mode != "off" and (not uncertified or needed)
    return _Situation(
        judge=judge,
        judged=judged,
        can_stop=defaults.can_stop,
        rejects=rejects,
        max_rethinks=max_rethinks,
        certificate=certificate,
        uncertified=uncertified,
        rule=_rule(asked, mode, certificate, defaults) if judged and not uncertified else Rule(None),
        nudge=_first(asked.nudge, defaults.nudge if judged and mode != "shadow" and not uncertified else 0),
        abstains=abstains,
        shows_separator=rejects and max_rethinks > 0 and asked.rethink != "in_context" and (asked.parallel or 1) == 1,
        greedy=beside.temperature < _GREEDY,
        thinks=asked.max_thinking_tokens != 0,
    )


_MET: Mapping[Need, Callable[[_Situation], bool]] = {
    Need.JUDGE: lambda now: now.judge,
    Need.JUDGED: lambda now: now.judged,
    Need.CLOSABLE: lambda now: now.can_stop,
    Need.UNCERTIFIED_RULE: lambda now: now.certificate is None and not now.uncertified,
    Need.ENDS_EARLY: lambda now: not now.rule.never_ends,
    Need.NUDGES: lambda now: now.nudge > 0,
    Need.REJECTS: lambda now: now.rejects,
    Need.AGAIN: lambda now: now.max_rethinks > 0,
    Need.ABSTAINS: lambda now: now.abstains,
    Need.SHOWS_SEPARATOR: lambda now: now.shows_separator,
    Need.GREEDY: lambda now: now.greedy,
    Need.THINKS: lambda now: now.thinks,
}


def _check_keys(asked: DrrRequest, mode: Mode, situation: _Situation) -> None:
    """Refuse the first key that would have no effect."""
    given = asked.given()
    for key in KEYS:
        if key.name not in given or key.name == "mode":
            continue
        # Whoever asks for a judgement where there is no judge is told that first: the mode follows from it.
        if Need.JUDGE in key.needs and not situation.judge:
            raise DrrError(f"drr.{key.name}", Need.JUDGE.value)
        if mode in key.refused:
            raise DrrError(f"drr.{key.name}", key.refused[mode])
        for need in key.needs:
            if not _MET[need](situation):
                raise DrrError(f"drr.{key.name}", need.value)


def _check_contradictions(asked: DrrRequest, situation: _Situation) -> None:
    max_steps, parallel = asked.max_steps, _first(asked.parallel, 1)
    for name in ("min_steps", "patience"):
        least = getattr(asked, name)
        if least is not None and max_steps is not None and least > max_steps:
            raise DrrError(f"drr.{name}", f"is more than max_steps ({max_steps}), which ends thinking before")
    if asked.mode == "rethink" and not situation.rejects:
        raise DrrError("drr.max_rethinks", "0 contradicts mode rethink, unless on_exhausted is abstain")
    if parallel > situation.max_rethinks + 1:
        raise DrrError("drr.parallel", f"is more than the {situation.max_rethinks + 1} attempts that may be made")
    if asked.rethink == "in_context" and parallel > 1:
        raise DrrError("drr.parallel", "attempts at the same time cannot see each other; use rethink fresh")
    if asked.threshold is not None and asked.accept is not None and asked.threshold < asked.accept:
        raise DrrError("drr.threshold", f"is below accept ({asked.accept:g}): it would stop at what accept rejects")


def _mode(asked: DrrRequest, forced_mode: Mode | None, defaults: Defaults) -> Mode:
    """The mode; with a scorer or a DM named, a server that does not judge by itself judges."""
    if forced_mode is not None and asked.mode not in (None, forced_mode):
        raise DrrError("drr.mode", f"the model alias asks for {forced_mode}, the drr object for {asked.mode}")
    named = asked.mode or forced_mode
    if defaults.rule is None:
        if named not in (None, "off"):
            source = "model" if asked.mode is None else "drr.mode"
            raise DrrError(source, f"{named} {Need.JUDGE.value}")
        return "off"
    if named is None and (asked.scorer or asked.dm) is not None and defaults.mode == "off":
        return "auto"
    return named or defaults.mode


def _of_scorer(asked: DrrRequest, defaults: Defaults) -> Defaults:
    """The defaults where `asked.scorer` judges, or who judges by default."""
    if asked.dm is not None:
        return _of_dm(asked, asked.dm, defaults)
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
        raise DrrError("drr.scorer", Need.CLOSABLE.value)
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


def _of_dm(asked: DrrRequest, name: str, defaults: Defaults) -> Defaults:
    """The defaults where the DM of this name judges."""
    if asked.scorer not in (None, "dm"):
        raise DrrError("drr.dm", f"{asked.scorer} judges, as drr.scorer says: no DM does")
    if name not in defaults.beside:
        known = ", ".join(defaults.beside) or "none (--dm-beside)"
        raise DrrError("drr.dm", f"this server has no DM of the name {name[:80]!r}; there are: {known}")
    dm = defaults.beside[name]
    return replace(
        defaults,
        scorer="dm",
        rule=dm.rule,
        accept=LEAST_ACCEPTED,
        calibration=dm.calibration,
        nudge=dm.nudge,
        nudge_below=dm.nudge_below,
    )


def _certificate(asked: DrrRequest, mode: Mode, defaults: Defaults) -> Certificate | None:
    """The certified rule for the risk asked for; None under `auto` and `shadow` where there is none for it."""
    assert asked.max_lost_correct is not None
    if asked.threshold is not None:
        raise DrrError("drr.max_lost_correct", "give either threshold or max_lost_correct, not both")
    if defaults.calibration is None:
        raise DrrError("drr.max_lost_correct", "this judge has not been calibrated (drr calibrate); use drr.threshold")
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
    """The stopping rule: the certified one, or the judge's own with the numbers that the client gives in their place.
    Mode rethink takes of it what gives a hopeless attempt up."""
    if certificate is not None:
        return certificate.rule
    default = _thinking_again(mode, defaults)[0] if _first(asked.max_rethinks, 0) or mode == "rethink" else None
    rule = default or defaults.rule
    assert rule is not None
    if mode == "rethink":
        rule = replace(rule, threshold=None, min_gain=None)
    given = {name: getattr(asked, name) for name in ("threshold", "hopeless", "min_gain", "patience")}
    return replace(rule, **{name: value for name, value in given.items() if value is not None})


def _thinking_again(mode: Mode, defaults: Defaults) -> tuple[Rule | None, float]:
    """What was calibrated for attempts that may be rejected: the rule that ends one, and the p_now below which it is
    rejected."""
    found = None if defaults.calibration is None else defaults.calibration.thinking_again(mode)
    return (None, defaults.accept) if found is None else found


def _accept(asked: DrrRequest, mode: Mode, defaults: Defaults) -> float:
    return _thinking_again(mode, defaults)[1] if asked.accept is None else asked.accept


def _separator(asked: DrrRequest, defaults: Defaults) -> str:
    return defaults.separator if asked.separator is None else asked.separator


def _first(value: int | None, default: int) -> int:
    return default if value is None else value
