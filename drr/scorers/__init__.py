"""What can judge a step boundary."""

from drr.scorers.protocol import Boundary, Scorer, ScorerUnavailable, ScoringSession

__all__ = ["Boundary", "Scorer", "ScorerUnavailable", "ScoringSession"]
