"""Two cheap signals to hold a DM against, neither of which needs a model that judges.

`embeddings`: the mean of the Reasoner's own input embeddings over question and steps so far, through a logistic
regression. It knows which words there are, not what they say together. `log-probability`: the attempt's mean token
log-probability. Only the table of embeddings is loaded, never the Reasoner.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from drr.errors import InputError, first_line
from drr.learn.arrays import Reals
from drr.learn.boundaries import Boundaries, flatten
from drr.learn.fusion import rollout_weights, sigmoid
from drr.learn.records import Rollout
from drr.learn.train_split import TrainingData
from drr.loop.features import FEATURE_NAMES

_TABLE = "embed_tokens.weight"
"""How the name of the table ends. Where output and input share one table, it is stored under this name."""

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the regression's penalty that are tried."""

_LEAST_SLOPE = 0.05
"""So much more is the log-odds of `now` by one unit of a signal, at least."""

_CONFIDENCE = FEATURE_NAMES.index("attempt_mean_logprob")


def read_embeddings(reasoner: str) -> torch.Tensor:
    """[vocabulary, size] the input embeddings of a Reasoner, a folder or the id of a model in the local cache, in the
    number format in which they are stored. InputError if its files do not hold them."""
    try:
        folder = Path(reasoner) if Path(reasoner).is_dir() else Path(snapshot_download(reasoner, local_files_only=True))
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.endswith(_TABLE):
                        table: torch.Tensor = file.get_tensor(name)
                        return table
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(reasoner, f"its embeddings cannot be read: {first_line(error)}") from error
    raise InputError(reasoner, f"has no safetensors file with {_TABLE}")


def mean_embeddings(rollouts: Sequence[Rollout], table: torch.Tensor) -> NDArray[np.float32]:
    """[N, size] the mean of `table` [vocabulary, size] over all tokens up to each boundary, those of the question
    included. InputError if the records hold no token ids."""
    found = [torch.zeros((0, table.shape[1]))]
    for rollout in rollouts:
        if rollout.prompt_ids is None or rollout.thought_ids is None:
            raise InputError("records", "hold no token ids, which embeddings need", field="prompt_ids")
        ids = torch.tensor([*rollout.prompt_ids, *rollout.thought_ids])
        ends = len(rollout.prompt_ids) + torch.tensor(rollout.step_tokens).cumsum(0)
        sums = table[ids].float().cumsum(0)
        found.append(sums[ends - 1] / ends[:, None])
    means: NDArray[np.float32] = torch.cat(found).numpy()
    return means


def fit_regression(data: TrainingData, table: torch.Tensor) -> Any:
    """A scikit-learn pipeline from mean embeddings to `now`, fitted on the graded boundaries of `data.text`, weighed as
    for a state head. The strength of its penalty is what gives the least log loss on `data.dev`."""
    inputs, labels, weights = _lessons(data.text, table)
    held, held_labels, held_weights = _lessons(data.dev, table)

    def loss(fit: Any) -> float:
        return float(log_loss(held_labels, fit.predict_proba(held), sample_weight=held_weights, labels=[False, True]))

    fits = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
            inputs, labels, logisticregression__sample_weight=weights
        )
        for strength in _STRENGTHS
    ]
    return min(fits, key=loss)


def _lessons(rollouts: Sequence[Rollout], table: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_], Reals]:
    data = flatten(rollouts, [np.zeros((len(rollout.steps), 2)) for rollout in rollouts])
    return mean_embeddings(rollouts, table)[data.known], data.now[data.known], rollout_weights(data)[data.known]


def by_embeddings(data: TrainingData, rollouts: Sequence[Rollout], table: torch.Tensor) -> Reals:
    """[N] the probability of `now` at the boundaries of `rollouts`, calibrated on `data.head`."""
    regression = fit_regression(data, table)
    fitting = flatten(data.head, [np.zeros((len(rollout.steps), 2)) for rollout in data.head])
    fitted = regression.decision_function(mean_embeddings(data.head, table))
    return _calibrated(fitted, fitting, regression.decision_function(mean_embeddings(rollouts, table)))


def by_confidence(fitting: Boundaries, tested: Boundaries) -> Reals | None:
    """[N] the probability of `now` by the attempt's mean log-probability so far; None unless it is known throughout.

    Sure is taken for right, whatever the boundaries at which it was fitted say: over unlike boundaries a regression
    can find the opposite, and would turn the baseline against itself.
    """
    if not (fitting.featured.all() and tested.featured.all()):
        return None
    return _calibrated(fitting.features[:, _CONFIDENCE], fitting, tested.features[:, _CONFIDENCE])


def _calibrated(fitted: Reals, fitting: Boundaries, signal: Reals) -> Reals:
    """A signal as a probability, through a regression on its values `fitted` at the boundaries `fitting`."""
    known = fitting.known
    regression = LogisticRegression().fit(fitted[known, None], fitting.now[known])
    slope, shift = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if slope < _LEAST_SLOPE:
        odds = np.log(fitting.now[known].mean() / (1 - fitting.now[known].mean()))
        slope, shift = _LEAST_SLOPE, odds - _LEAST_SLOPE * float(fitted[known].mean())
    return sigmoid(slope * signal + shift)
