"""vLLM's general plugin. Every process of an engine loads it: it does and imports nothing unless a model is judged."""

import os

ARCHITECTURE_VARIABLE = "DRR_JUDGED_ARCHITECTURE"
"""Tells an engine's processes which of vLLM's model classes a judged one stands in for. Engines of that class that have
no heads run as without it."""


def register() -> None:
    """Register the judged model class, where this process has been told of one."""
    architecture = os.environ.get(ARCHITECTURE_VARIABLE)
    if architecture:
        from drr.engine.judged_model import register_judged

        register_judged(architecture)
