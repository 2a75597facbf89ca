"""Fit the fusion head, which turns a judge's logits and behaviour features into probabilities, and calibrate it."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from drr.judge.head import JUDGE_LOGITS, FusionHead, Kind, input_names
from drr.learn.arrays import Flags, Reals
from drr.learn.boundaries import Boundaries
from drr.loop.features import FEATURE_NAMES
from drr.tasks.questions import first_spellings

_LEAST_FEATURED = 200
"""With fewer boundaries than this whose behaviour features are known, the head uses the judge's logits only."""

_LEAST_SLOPE = 0.05

_CHECKED_EVERY = 20
"""Steps between two looks at how well the networks judge questions that they were not fitted to."""


_Network = tuple[torch.nn.Linear, torch.nn.Linear]
"""Two layers, with tanh between."""


def fit_judge_only(data: Boundaries) -> FusionHead:
    """A head that calibrates the judge's logits on `data` and ignores behaviour features."""
    return _judge_only(data.kind, *_platt(data))


def _judge_only(kind: Kind, weight: Reals, bias: Reals) -> FusionHead:
    names, logits = input_names(kind), len(JUDGE_LOGITS[kind])
    # tanh is nearly linear around zero: the logits are scaled down before it and back up after it.
    small = 1e-3
    return FusionHead(
        kind,
        mean=np.zeros(len(names)),
        scale=np.full(len(names), 1 / small),
        hidden=np.concatenate([weight, np.zeros((2, len(names) - logits))], axis=1),
        hidden_bias=np.zeros(2),
        out=np.eye(2) / small,
        out_bias=bias,
        temperature=np.ones(2),
        judge_weight=weight,
        judge_bias=bias,
    )


def fit_head(
    data: Boundaries,
    questions: Sequence[str],
    *,
    use: Sequence[str] | None = None,
    members: int = 12,
    hidden: int = 8,
    steps: int = 700,
    seed: int = 0,
) -> FusionHead:
    """Fit a fusion head of the kind of `data`. Inputs not named in `use` (None: all) are held at their mean.
    Temperatures are left at 1.

    The head is an average of `members` small networks, each fitted on a bootstrap sample of the questions
    (`questions[i]` is rollout i's), because a single network overfits to so few questions. The average is itself one
    network with one hidden layer. It is taken at the step at which the loss on the questions that their samples left
    out is least; with few questions that is early. Where behaviour features are unknown, the head uses the judge's
    logits only, scaled and shifted to fit `data`.
    """
    weight, bias = _platt(data)
    usable = data.where(data.featured & data.known)
    if len(usable.now) < _LEAST_FEATURED:
        return _judge_only(data.kind, weight, bias)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inputs = usable.inputs
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-6
    if use is not None:
        scale[[name not in use for name in input_names(data.kind)]] = 1e12  # standardisation makes these inputs zero
    standard = torch.tensor(np.clip((inputs - mean) / scale, -8, 8), dtype=torch.float32)
    labels = torch.tensor(np.stack([usable.now, usable.later], axis=1), dtype=torch.float32)
    names, question_of = np.unique(np.asarray(first_spellings(questions))[usable.rollout], return_inverse=True)
    weights = torch.tensor(rollout_weights(usable), dtype=torch.float32)[:, None]
    checks = [*range(_CHECKED_EVERY, steps, _CHECKED_EVERY), steps]
    unseen, judges = torch.zeros(len(checks), *labels.shape), torch.zeros(len(labels), 1)
    networks = []
    for _ in range(members):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[question_of]
        own = weights * torch.tensor(drawn, dtype=torch.float32)[:, None]
        networks.append(_fit_network(standard, labels, own, hidden, checks))
        left_out = torch.tensor(drawn == 0)
        judges[left_out] += 1
        for check, network in enumerate(networks[-1]):
            with torch.inference_mode():
                unseen[check][left_out] += _outputs(network, standard[left_out])
    judged = judges[:, 0] > 0
    losses = [_loss(total[judged] / judges[judged], labels[judged], weights[judged]) for total in unseen]
    fitted = [network[int(np.argmin(losses))] for network in networks]
    return FusionHead(
        data.kind,
        mean=mean,
        scale=scale,
        hidden=np.concatenate([_array(first.weight) for first, _ in fitted]),
        hidden_bias=np.concatenate([_array(first.bias) for first, _ in fitted]),
        out=np.concatenate([_array(last.weight) for _, last in fitted], axis=1) / members,
        out_bias=np.mean([_array(last.bias) for _, last in fitted], axis=0),
        temperature=np.ones(2),
        judge_weight=weight,
        judge_bias=bias,
    )


def with_temperatures(head: FusionHead, data: Boundaries) -> FusionHead:
    """The head with the temperatures that minimise the log loss on `data`.

    The judge's logits without behaviour features also get a new bias, because class balancing in training shifted them.
    """
    weight, bias = _platt(data)
    if not head.reads_behaviour:
        return _judge_only(head.kind, weight, bias)
    featured = data.where(data.featured)
    temperature = head.temperature
    if len(featured.now):
        fused = head.logits(featured.inputs)
        labels = np.stack([featured.now, featured.later], axis=1)
        known = (featured.known, np.ones(len(featured.later), dtype=bool))
        temperature = np.asarray([_temperature(fused[known[i], i], labels[known[i], i]) for i in range(2)])
    return replace(head, temperature=temperature, judge_weight=weight, judge_bias=bias)


def probabilities(head: FusionHead, data: Boundaries) -> Reals:
    """[N, 2] calibrated probabilities (now, later), exactly as in serving: fused where the features are known, from
    the judge's logits alone elsewhere."""
    fused = head.logits(np.nan_to_num(data.inputs)) / head.temperature
    return sigmoid(np.where(data.featured[:, None], fused, head.judged(data.logits)))


def sigmoid(logits: Reals) -> Reals:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -40.0, 40.0))))


def _platt(data: Boundaries) -> tuple[Reals, Reals]:
    """Weight [2, J] and bias [2] of a logistic regression of each label on its own logits. Where a label never varies
    or the fit is nearly flat, the bias is 0 and the label's logits are averaged."""
    names = JUDGE_LOGITS[data.kind]
    weight, bias = np.zeros((2, len(names))), np.zeros(2)
    for row, (name, labels, known) in enumerate(
        (("now", data.now, data.known), ("later", data.later, np.ones_like(data.known)))
    ):
        own = [column for column, logit in enumerate(names) if logit.endswith(f"_{name}")]
        weight[row, own] = 1 / len(own)
        logits, right = data.logits[known][:, own], labels[known]
        if len(logits) and right.any() and not right.all():
            fit = LogisticRegression(C=1e3).fit(logits, right)
            if float(fit.coef_[0].sum()) > _LEAST_SLOPE:
                weight[row, own], bias[row] = fit.coef_[0], float(fit.intercept_[0])
    return weight, bias


def rollout_weights(data: Boundaries) -> Reals:
    """[N] weights. In each rollout the boundaries before the first stated answer weigh 1 together; so do the boundaries
    that first state it, and so do those after it."""
    fresh = data.features[:, FEATURE_NAMES.index("log_steps_since_answer")] == 0
    phase = np.where(data.stated == 0, 0, np.where((data.stated == 1) & fresh, 1, 2))
    group = data.rollout * 3 + phase
    return np.asarray(1.0 / np.bincount(group)[group])


def _fit_network(
    inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, hidden: int, checks: Sequence[int]
) -> list[_Network]:
    """The network after each of these numbers of steps; the last is all of them."""
    network = torch.nn.Linear(inputs.shape[1], hidden), torch.nn.Linear(hidden, 2)
    weights_of = [parameter for layer in network for parameter in layer.parameters()]
    optimizer = torch.optim.AdamW(weights_of, lr=0.02, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, checks[-1])
    found = []
    for step in range(1, checks[-1] + 1):
        optimizer.zero_grad()
        losses = functional.binary_cross_entropy_with_logits(_outputs(network, inputs), labels, reduction="none")
        torch.autograd.backward((losses * weights).sum() / weights.sum())
        optimizer.step()
        schedule.step()
        if step in checks:
            found.append(copy.deepcopy(network))
    return found


def _outputs(network: _Network, inputs: torch.Tensor) -> torch.Tensor:
    first, last = network
    logits: torch.Tensor = last(torch.tanh(first(inputs)))
    return logits


def _loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    """Mean log loss of logits [N, 2]; weights [N, 1]. Infinite where there is nothing to judge."""
    if not float(weights.sum()):
        return float("inf")
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1, keepdim=True)
    return float((losses * weights).sum() / weights.sum())


def _array(parameter: torch.Tensor) -> Reals:
    return parameter.detach().numpy().astype(np.float64)


def _temperature(logits: Reals, labels: Flags) -> float:
    if not len(logits):
        return 1.0
    candidates = np.exp(np.linspace(np.log(0.25), np.log(8.0), 141))
    signs = np.where(labels, -1.0, 1.0)
    losses = [np.logaddexp(0.0, signs * logits / candidate).mean() for candidate in candidates]
    return float(candidates[int(np.argmin(losses))])
