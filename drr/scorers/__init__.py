"""What can judge a step boundary."""

from drr.scorers.protocol import Boundary, Scorer, ScorerUnavailableError, ScoringSession

__all__ = ["Boundary", "Scorer", "ScorerUnavailableError", "ScoringSession"]
