"""The result of calibrating a judge: its certified rules, its default rule, and how to think again with it.

`drr calibrate` (drr.certify) writes this data into `drr.json`, and a server reads it.
"""

from dataclasses import dataclass, field
from typing import Any, Self

from drr.errors import InputError
from drr.loop.rule import Rule


@dataclass(frozen=True, slots=True)
class Certificate:
    """A rule whose lost-correct rate is at most `max_lost_correct`, and the test that it passed.

    Of `right` test questions that full thinking gets right the rule lost `lost`; `p_value` is that of the test. `saved`
    is the share of tokens saved, `accuracy_change` in points of 100, both against full thinking.
    """

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

    `questions` counts the questions by use; `right` are the test questions that full thinking gets right. `labels` says
    what answers were graded against (`gold` or `consistency`): the promise is about that kind of right. `sampling` is
    how the Reasoner was sampled, with the `dtype` that it computed in if that was chosen: the promise holds for
    requests sampled the same way. `refused` says why a risk has no certificate. `drift` is the histogram of p_later at
    first boundaries. `rethink` holds the settings for rejecting attempts, by mode: `auto` also stops early, `rethink`
    does not. Each has `rule`, `accept`, `attempts`, and what they did to the calibration questions. It is empty if
    those questions had one attempt each.
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
        return {**data, "certificates": [certificate.to_json() for certificate in self.certificates]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """InputError if this version cannot read the object."""
        try:
            certificates = tuple(Certificate.from_json(certificate) for certificate in data["certificates"])
            needed = {name: data[name] for name in cls.__slots__ if name not in ("certificates", "rethink")}
            return cls(**needed, certificates=certificates, rethink=data.get("rethink") or {})
        except (KeyError, TypeError) as error:
            raise InputError("drr.json", f"cannot be read: {error!r}", field="calibration") from error

    def for_risk(self, epsilon: float) -> Certificate | None:
        """The certificate that saves most, of those for a risk of at most `epsilon`; None if there is none."""
        good = [certificate for certificate in self.certificates if certificate.max_lost_correct <= epsilon + 1e-12]
        return max(good, key=lambda certificate: certificate.saved) if good else None

    @property
    def rules(self) -> dict[str, Rule]:
        """The default rule and the certified ones, by name."""
        certified = {
            f"{100 * certificate.max_lost_correct:g} % lost": certificate.rule for certificate in self.certificates
        }
        return {"default": Rule(**self.default["rule"]), **certified}

    def thinking_again(self, mode: str) -> tuple[Rule, float] | None:
        """For `mode`: the rule that ends an attempt, and the p_now below which it is rejected. None if the calibration
        has neither."""
        choice = self.rethink.get(mode)
        return None if choice is None else (Rule(**choice["rule"]), float(choice["accept"]))

    @property
    def risks(self) -> list[float]:
        """The certified risks, smallest first."""
        return sorted(certificate.max_lost_correct for certificate in self.certificates)
