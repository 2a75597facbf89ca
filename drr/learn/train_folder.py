"""The files in a DM's folder that only a training under way needs."""

import shutil
from pathlib import Path

STATE_NAME = "training.json"
CHECKPOINTS = "checkpoints"


def forget_training(out: Path) -> None:
    """Remove the files that only a training under way needs. Call it when everything that comes after the training is
    written."""
    (out / STATE_NAME).unlink(missing_ok=True)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def is_under_way(out: Path) -> bool:
    """Whether `out` holds a training that was begun and not finished."""
    return (out / STATE_NAME).exists()
