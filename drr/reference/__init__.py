"""The reference models: a tiny Reasoner and its DM, made from nothing by the recipe in this package."""

from pathlib import Path

MODEL_NAME = "drr-reference"
"""The name under which the reference Reasoner is served."""

STREAM_INTERVAL = 8
"""Tokens per chunk of a stream where the reference models are served: they make hundreds of tokens a second, and on the
cores that they run on a chunk costs more than a token does."""

_MODELS = Path(__file__).parent / "models"


def reasoner_folder() -> Path:
    """The shipped Reasoner, a plain Hugging Face folder."""
    return _MODELS / "reasoner"


def dm_folder() -> Path:
    """The shipped DM: a Hugging Face folder with `drr.json` and `head.json`."""
    return _MODELS / "dm"
