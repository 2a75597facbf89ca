"""The reference models: a tiny Reasoner and its DMs, trained from nothing by the recipe in this package."""

from pathlib import Path

from drr.judge.head import Kind

MODEL_NAME = "drr-reference"
"""The model name of the served reference Reasoner."""

STREAM_INTERVAL = 8
"""Tokens per chunk of a stream from the reference models. They generate hundreds of tokens a second, and on the same
CPU cores a chunk costs more than a token."""

SERVED_DM: Kind = "head"
"""The kind of DM that is served where none is asked for: the one that LOG.md's measurements speak for."""

_MODELS = Path(__file__).parent / "models"
_DM_FOLDERS: dict[Kind, str] = {"text": "dm", "head": "dm-head"}


def reasoner_folder() -> Path:
    """The shipped Reasoner, a plain Hugging Face folder."""
    return _MODELS / "reasoner"


def dm_folder(kind: Kind = "text") -> Path:
    """The shipped DM of this kind (text or head): a folder with `drr.json`, `head.json` and what the DM judges by."""
    return _MODELS / _DM_FOLDERS[kind]
