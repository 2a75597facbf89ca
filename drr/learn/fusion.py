"""Fit the fusion head, which turns text logits and behaviour features into probabilities, and calibrate it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from drr.judge.head import INPUT_NAMES, FusionHead
from drr.learn.arrays import Flags, Reals
from drr.learn.boundaries import Boundaries
from drr.loop.features import FEATURE_NAMES
from drr.tasks.questions import first_spellings

_LEAST_FEATURED = 200
"""With fewer boundaries than this whose behaviour features are known, the head uses the text logits only."""


def text_only_head(text_temperature: Reals, text_bias: Reals) -> FusionHead:
    """A head that calibrates the text logits (`text_temperature`, `text_bias` [2]) and ignores behaviour features."""
    inputs, names = len(INPUT_NAMES), INPUT_NAMES[:2]
    selected = np.asarray([[float(name == logit_name) for name in INPUT_NAMES] for logit_name in names])
    # tanh is nearly linear around zero: the logits are scaled down before it and back up after it.
    small = 1e-3
    return FusionHead(
        mean=np.zeros(inputs),
        scale=np.ones(inputs),
        hidden=selected * small,
        hidden_bias=np.zeros(2),
        out=np.eye(2) / small,
        out_bias=text_bias * text_temperature,
        temperature=text_temperature,
        text_temperature=text_temperature,
        text_bias=text_bias,
    )


def fit_head(
    data: Boundaries,
    questions: Sequence[str],
    *,
    use: Sequence[str] = INPUT_NAMES,
    members: int = 6,
    hidden: int = 16,
    steps: int = 700,
    seed: int = 0,
) -> FusionHead:
    """Fit the fusion head on `data`; inputs not named in `use` are held at their mean. Temperatures are left at 1.

    The head is an average of `members` small networks, each fitted on a bootstrap sample of the questions
    (`questions[i]` is rollout i's), because a single network overfits to so few questions. The average is itself one
    network with one hidden layer. Where behaviour features are unknown, the head uses the text logits only, scaled
    and shifted to fit `data`.
    """
    text_temperature, text_bias = _platt(data.text_logits, data)
    usable = data.where(data.featured & data.known)
    if len(usable.now) < _LEAST_FEATURED:
        return text_only_head(text_temperature, text_bias)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inputs = usable.inputs
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-6
    scale[[name not in use for name in INPUT_NAMES]] = 1e12  # standardisation makes these inputs zero
    standard = torch.tensor(np.clip((inputs - mean) / scale, -8, 8), dtype=torch.float32)
    labels = torch.tensor(np.stack([usable.now, usable.later], axis=1), dtype=torch.float32)
    names, question_of = np.unique(np.asarray(first_spellings(questions))[usable.rollout], return_inverse=True)
    fitted = []
    for _ in range(members):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        weights = torch.tensor(_rollout_weights(usable) * drawn[question_of], dtype=torch.float32)[:, None]
        fitted.append(_fit_network(standard, labels, weights, hidden, steps))
    return FusionHead(
        mean=mean,
        scale=scale,
        hidden=np.concatenate([_array(first.weight) for first, _ in fitted]),
        hidden_bias=np.concatenate([_array(first.bias) for first, _ in fitted]),
        out=np.concatenate([_array(last.weight) for _, last in fitted], axis=1) / members,
        out_bias=np.mean([_array(last.bias) for _, last in fitted], axis=0),
        temperature=np.ones(2),
        text_temperature=text_temperature,
        text_bias=text_bias,
    )


def with_temperatures(head: FusionHead, data: Boundaries) -> FusionHead:
    """The head with the temperatures that minimise the log loss on `data`.

    Text logits without behaviour features also get a new bias, because class balancing in training shifted them.
    """
    text_temperature, text_bias = _platt(data.text_logits, data)
    if not head.reads_behaviour:
        return text_only_head(text_temperature, text_bias)
    featured = data.where(data.featured)
    temperature = head.temperature
    if len(featured.now):
        fused = head.logits(featured.inputs)
        labels = np.stack([featured.now, featured.later], axis=1)
        known = (featured.known, np.ones(len(featured.later), dtype=bool))
        temperature = np.asarray([_temperature(fused[known[i], i], labels[known[i], i]) for i in range(2)])
    return replace(head, temperature=temperature, text_temperature=text_temperature, text_bias=text_bias)


def probabilities(head: FusionHead, data: Boundaries) -> Reals:
    """[N, 2] calibrated probabilities (now, later), exactly as in serving: fused where the features are known, from
    the text logits alone elsewhere."""
    text = data.text_logits / head.text_temperature + head.text_bias
    fused = head.logits(np.nan_to_num(data.inputs)) / head.temperature
    return sigmoid(np.where(data.featured[:, None], fused, text))


def text_probabilities(head: FusionHead, data: Boundaries) -> Reals:
    """[N, 2] calibrated probabilities from the text alone."""
    return sigmoid(data.text_logits / head.text_temperature + head.text_bias)


def sigmoid(logits: Reals) -> Reals:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -40.0, 40.0))))


def _platt(logits: Reals, data: Boundaries) -> tuple[Reals, Reals]:
    """Temperature [2] and bias [2] of a logistic regression of each label on its logit; 1 and 0 for a label that never
    varies or whose fit is nearly flat."""
    temperature, bias = np.ones(2), np.zeros(2)
    for column, (labels, known) in enumerate(((data.now, data.known), (data.later, np.ones_like(data.known)))):
        logit, right = logits[known, column], labels[known]
        if len(logit) and right.any() and not right.all():
            fit = LogisticRegression(C=1e3).fit(logit[:, None], right)
            slope = float(fit.coef_[0, 0])
            if slope > 0.05:
                temperature[column], bias[column] = 1 / slope, float(fit.intercept_[0])
    return temperature, bias


def _rollout_weights(data: Boundaries) -> Reals:
    """[N] weights. In each rollout the boundaries before the first stated answer weigh 1 together; so do the boundaries
    that first state it, and so do those after it."""
    fresh = data.features[:, FEATURE_NAMES.index("log_steps_since_answer")] == 0
    phase = np.where(data.stated == 0, 0, np.where((data.stated == 1) & fresh, 1, 2))
    group = data.rollout * 3 + phase
    return np.asarray(1.0 / np.bincount(group)[group])


def _fit_network(
    inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, hidden: int, steps: int
) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    first, last = torch.nn.Linear(inputs.shape[1], hidden), torch.nn.Linear(hidden, 2)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = functional.binary_cross_entropy_with_logits(model(inputs), labels, reduction="none")
        torch.autograd.backward((losses * weights).sum() / weights.sum())
        optimizer.step()
        schedule.step()
    return first, last


def _array(parameter: torch.Tensor) -> Reals:
    return parameter.detach().numpy().astype(np.float64)


def _temperature(logits: Reals, labels: Flags) -> float:
    if not len(logits):
        return 1.0
    candidates = np.exp(np.linspace(np.log(0.25), np.log(8.0), 141))
    signs = np.where(labels, -1.0, 1.0)
    losses = [np.logaddexp(0.0, signs * logits / candidate).mean() for candidate in candidates]
    return float(candidates[int(np.argmin(losses))])
