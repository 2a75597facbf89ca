"""What calibration found out about a judge: its certified rules, its default rule, how it is used to think again.

This is the data that goes into `drr.json` and that a server reads. How it is found is in drr.certify.
"""

from dataclasses import dataclass, field
from typing import Any, Self

from drr.errors import InputError
from drr.loop.rule import Rule


@dataclass(frozen=True, slots=True)
class Certificate:
    """A rule whose lost-correct rate is at most `max_lost_correct`, and the test it passed."""

    max_lost_correct: float
    rule: Rule
    lost: int
    right: int
    p_value: float
    saved: float
    accuracy_change: float

    def to_json(self) -> dict[str, Any]:
        figures = {"p_value": round(self.p_value, 6), "saved": round(self.saved, 4)}
        return {
            "max_lost_correct": self.max_lost_correct,
            "rule": self.rule.to_json(),
            "lost": self.lost,
            "right": self.right,
            **figures,
            "accuracy_change_points": round(self.accuracy_change, 2),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(
            data["max_lost_correct"],
            Rule(**data["rule"]),
            data["lost"],
            data["right"],
            data["p_value"],
            data["saved"],
            data["accuracy_change_points"],
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `drr calibrate` writes into `drr.json`.

    `questions` counts them by use; `right` those of them that the tests were made on. `labels` says against what
    answers were graded (`gold` or `consistency`): the promise is about those. `sampling` is how the Reasoner was
    sampled: the promise holds for requests sampled the same way. `refused` says why a risk has no certificate.
    `drift` is the histogram of p_later at first boundaries. `rethink` is what to do where attempts may be rejected,
    by mode: `auto` stops early, too, `rethink` does not (each with `rule`, `accept`, `attempts`, and what they did to
    the calibration questions); empty where those had one attempt each.
    """

    confidence: float
    source: str
    labels: str
    questions: dict[str, int]
    right: int
    sampling: dict[str, Any]
    certificates: tuple[Certificate, ...]
    refused: dict[str, str]
    drift: dict[str, list[float]]
    default: dict[str, Any]
    rethink: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__slots__}
        return {**data, "certificates": [own.to_json() for own in self.certificates]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """InputError where the object is not one that this version wrote."""
        try:
            certificates = tuple(Certificate.from_json(own) for own in data["certificates"])
            needed = {name: data[name] for name in cls.__slots__ if name not in ("certificates", "rethink")}
            return cls(**needed, certificates=certificates, rethink=data.get("rethink") or {})
        except (KeyError, TypeError) as error:
            raise InputError("drr.json", f"cannot be read: {error!r}", field="calibration") from error

    def for_risk(self, epsilon: float) -> Certificate | None:
        """The most saving certificate for a risk of at most `epsilon`."""
        good = [own for own in self.certificates if own.max_lost_correct <= epsilon + 1e-12]
        return max(good, key=lambda own: own.saved) if good else None

    @property
    def rules(self) -> dict[str, Rule]:
        """By name: the default rule and the certified ones."""
        certified = {f"{100 * own.max_lost_correct:g} % lost": own.rule for own in self.certificates}
        return {"default": Rule(**self.default["rule"]), **certified}

    def thinking_again(self, mode: str) -> tuple[Rule, float] | None:
        """Where attempts may be rejected: the rule that ends one, and the p_now below which it is rejected."""
        own = self.rethink.get(mode)
        return None if own is None else (Rule(**own["rule"]), float(own["accept"]))

    @property
    def risks(self) -> list[float]:
        """The certified risks, smallest first."""
        return sorted(own.max_lost_correct for own in self.certificates)
