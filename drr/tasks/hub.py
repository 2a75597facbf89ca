"""Datasets of the Hugging Face hub. A hub that cannot be reached is told in seconds, and a cached copy is used."""

import contextlib
from collections.abc import Iterator
from typing import Any

from drr.errors import InputError, first_line
from drr.tasks.arrow_rows import table_rows
from drr.tasks.rows import Table

_PATIENCE = 10
"""Seconds for the hub's first answer."""


def hub_rows(source: str, name: str, config: str, split: str) -> Table:
    """The rows of a dataset of the hub; `source` is what the user called it. InputError if it cannot be had."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            source, "there is no such file or folder; for a Hugging Face dataset install the extra `train`"
        ) from error
    datasets.disable_progress_bars()
    unreachable = None if datasets.config.HF_HUB_OFFLINE else _unreachable(source, name)
    with _offline(datasets.config) if unreachable else contextlib.nullcontext():
        try:
            dataset = datasets.load_dataset(name, config or None, split=split or "train")
            return table_rows(source, dataset.with_format("arrow")[:])
        except InputError:
            raise
        except Exception as error:  # whatever a hub, a network or a damaged cache may raise
            reason = unreachable or first_line(error)
            raise InputError(
                source, f"there is no such file or folder, and no such dataset can be loaded: {reason}"
            ) from error


def _unreachable(source: str, name: str) -> str | None:
    """Why the hub cannot be asked for the dataset; None if it answered that it has it. InputError if it has not."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=_PATIENCE)
    except HfHubHTTPError as error:
        reason = f"the Hugging Face hub gives no such dataset: {first_line(error)}"
        raise InputError(source, f"there is no such file or folder, and {reason}") from error
    except Exception as error:  # the errors of whichever HTTP library the hub's client uses
        return f"the Hugging Face hub cannot be reached ({first_line(error)}), and no copy is cached"
    return None


@contextlib.contextmanager
def _offline(config: Any) -> Iterator[None]:
    """Keeps `datasets` from asking the hub again, six times with pauses in between."""
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = False
