"""Reasoners that other servers run."""
