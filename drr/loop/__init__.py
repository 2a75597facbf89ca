"""The loop that thinks in steps and stops when thinking no longer pays, and the attempts that make up a response.

It knows no engine and no model, only the protocols `Reasoner`, `Scorer` and `Probe`.
"""
