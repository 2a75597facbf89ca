"""Stopping rules with a stated risk: replay rules on records, test and choose them, and check the promise."""
