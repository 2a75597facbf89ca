"""Who can judge a step boundary: the DM, a process reward model, and scorers that need no training."""
