"""Run, compare and report strategies on one set of questions, with every token counted."""
