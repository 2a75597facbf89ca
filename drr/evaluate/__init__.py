"""Strategies side by side on one set of questions, every token counted: run, compared, reported."""
