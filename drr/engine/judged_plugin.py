"""vLLM's general plugin. Every process of an engine loads it: it does next to nothing unless a model is judged."""

import os

from drr.engine.children import settle_if_owned

ARCHITECTURE_VARIABLE = "DRR_JUDGED_ARCHITECTURE"
"""Tells an engine's processes which of vLLM's model classes a judged one stands in for. Engines of that class that have
no heads run as without it."""


def register() -> None:
    """Register the judged model class, where this process has been told of one."""
    settle_if_owned()
    architecture = os.environ.get(ARCHITECTURE_VARIABLE)
    if architecture:
        from drr.engine.judged_model import register_judged

        register_judged(architecture)
