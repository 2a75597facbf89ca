"""The reference models: a tiny Reasoner and its DM, trained from nothing by the recipe in this package."""

from pathlib import Path

MODEL_NAME = "drr-reference"
"""The model name of the served reference Reasoner."""

STREAM_INTERVAL = 8
"""Tokens per chunk of a stream from the reference models. They generate hundreds of tokens a second, and on the same
CPU cores a chunk costs more than a token."""

_MODELS = Path(__file__).parent / "models"


def reasoner_folder() -> Path:
    """The shipped Reasoner, a plain Hugging Face folder."""
    return _MODELS / "reasoner"


def dm_folder() -> Path:
    """The shipped DM: a Hugging Face folder with `drr.json` and `head.json`."""
    return _MODELS / "dm"
