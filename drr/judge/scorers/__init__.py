"""Scorers of step boundaries: the DM, a process reward model, and scorers that need no training."""
