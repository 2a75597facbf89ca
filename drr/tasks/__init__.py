"""Where questions come from, and which split a question belongs to."""

from drr.tasks.questions import Question, Split, split_of

__all__ = ["Question", "Split", "split_of"]
