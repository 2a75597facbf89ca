"""The step boundaries of rollouts as arrays, and a text classifier's logits at them.

A causal classifier scores all boundaries of an attempt in one pass, at exactly the tokens that serving pools. A
bidirectional one (an encoder) reads each boundary's text separately, as it does in serving.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from drr.errors import InputError, first_line
from drr.judge.dm_input import DmInput
from drr.judge.head import JUDGE_LOGITS, Kind
from drr.learn.arrays import Flags, Reals
from drr.learn.records import Rollout, behaviour_features
from drr.loop.features import FEATURE_NAMES
from drr.loop.stated import stated_answer
from drr.progress import Progress

_TOKENS_AT_ONCE = 16_384
"""What a classifier reads in one pass, padding included: memory grows with it. MiniLM (23 million parameters) takes
half a gigabyte for so many tokens of 512-token texts, and two when it is trained."""


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Every boundary of some rollouts, flattened, rollout by rollout. N boundaries, F features.

    logits [N, J] of the judge, a DM of this `kind`, in the order of JUDGE_LOGITS; features [N, F], NaN where the
    Reasoner's probabilities are unknown; now, later [N] labels; known [N] whether `now` was graded; rollout [N] and
    index [N]: the number of the rollout, and of the boundary in it; stated [N] counts the answers stated in the attempt
    so far.
    """

    kind: Kind
    logits: Reals
    features: Reals
    now: Flags
    known: Flags
    later: Flags
    rollout: NDArray[np.int64]
    index: NDArray[np.int64]
    stated: NDArray[np.int64]

    @property
    def inputs(self) -> Reals:
        """[N, I] the fusion head's inputs in the order of `input_names`."""
        return np.concatenate([self.logits, self.features], axis=1)

    @property
    def featured(self) -> Flags:
        """[N] whether the behaviour features are known."""
        return np.asarray(~np.isnan(self.features).any(1))

    @property
    def judged(self) -> Flags:
        """[N] whether there are logits."""
        return np.asarray(~np.isnan(self.logits).any(1))

    def where(self, mask: Flags) -> "Boundaries":
        """The boundaries where `mask` [N] is true."""
        return Boundaries(self.kind, *(getattr(self, name)[mask] for name in self.__slots__ if name != "kind"))

    def of(self, kind: Kind) -> "Boundaries":
        """The same boundaries with the logits of a part of the judge only. ValueError if the judge lacks it."""
        have = JUDGE_LOGITS[self.kind]
        return replace(self, kind=kind, logits=self.logits[:, [have.index(name) for name in JUDGE_LOGITS[kind]]])


@dataclass(frozen=True, slots=True)
class Stretch:
    """An input that holds several boundaries: its `ids`, and for each boundary the position of its last token and the
    index of its step."""

    ids: list[int]
    positions: list[int]
    steps: list[int]


def stretches(tokenizer: Any, rollout: Rollout, max_tokens: int, merged: Sequence[bool] = ()) -> Iterator[Stretch]:
    """The DM's inputs for a rollout. There is more than one only if old steps were dropped to stay within `max_tokens`.
    `merged[i]` joins step i to the next one."""
    context = DmInput(tokenizer, rollout.question, max_tokens)
    ids, positions, steps = context.ids, list[int](), list[int]()
    text = ""
    for index, step in enumerate(rollout.steps):
        text += step
        if index < len(rollout.steps) - 1 and index < len(merged) and merged[index]:
            continue
        longer = context.append(text)
        text = ""
        if longer[: len(ids)] != ids:
            if steps:
                yield Stretch(ids, positions, steps)
            positions, steps = [], []
        ids = longer
        positions.append(len(ids) - 1)
        steps.append(index)
    if steps:
        yield Stretch(ids, positions, steps)


def answers_stated(rollout: Rollout) -> list[int]:
    """For each boundary, how many answers have been stated up to it."""
    counts, count = [], 0
    for step in rollout.steps:
        count += stated_answer(step) is not None
        counts.append(count)
    return counts


class BoundaryModel(nn.Module):
    """A Hugging Face sequence classifier with two labels, asked at boundaries."""

    def __init__(self, classifier: Any, *, fresh: Sequence[str] = (), added_layers: int = 0) -> None:
        """`fresh` names the modules without pretraining; the last `added_layers` layers of the backbone are new as
        well."""
        super().__init__()
        self.classifier, self.fresh, self.added_layers = classifier, tuple(fresh), added_layers

    @property
    def plain(self) -> Any:
        """The classifier without its adapters."""
        return self.classifier.get_base_model() if hasattr(self.classifier, "peft_config") else self.classifier

    @property
    def causal(self) -> bool:
        """Whether the states of a prefix do not depend on what follows it."""
        return hasattr(self.plain, "score")

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [B, S, 2] at `positions` [B, S], and the states [B, S, H] that they were computed from.

        For a bidirectional classifier every row holds one boundary, its end, and the states are None.
        """
        if not self.causal:
            return self._read_in_portions(input_ids, attention_mask)[:, None, :], None
        plain = self.plain
        last = plain.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        picked = torch.gather(last, 1, positions[..., None].expand(-1, -1, last.shape[-1]))
        return plain.score(picked), picked

    def _read_in_portions(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2] of whole rows. A batch of rollouts is many rows for an encoder, so they are read in portions of
        about the same length; while training, what a portion computed is thrown away and computed again for its
        gradients where there are several."""
        lengths = mask.sum(1).tolist()
        parts = list(portions(lengths, _TOKENS_AT_ONCE))
        again = len(parts) > 1 and torch.is_grad_enabled()
        read = []
        for rows in parts:
            longest = max(lengths[row] for row in rows)
            portion = ids[rows, :longest], mask[rows, :longest]
            read.append(checkpoint(self._read, *portion, use_reentrant=False) if again else self._read(*portion))
        back = torch.tensor([row for rows in parts for row in rows], device=ids.device).argsort()
        return torch.cat(read)[back]

    def _read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2] of whole rows, in one pass."""
        found: torch.Tensor = self.classifier(input_ids=ids, attention_mask=mask).logits
        return found


def portions(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """The numbers of all rows, the shortest first, in portions that hold at most so many tokens once every row is as
    long as the longest of its portion; a longer row is alone."""
    portion: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if portion and (len(portion) + 1) * lengths[row] > tokens:
            yield portion
            portion = []
        portion.append(row)
    if portion:
        yield portion


def pad_rows(rows: Sequence[Stretch], pad: int) -> dict[str, torch.Tensor]:
    """ids and mask [B, T] and positions [B, S] of a batch; positions of missing boundaries are 0."""
    length, most = max(len(row.ids) for row in rows), max(len(row.positions) for row in rows)
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    positions = torch.zeros((len(rows), most), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = 1
        positions[number, : len(row.positions)] = torch.tensor(row.positions)
    return {"input_ids": ids, "attention_mask": mask, "positions": positions}


def one_by_one(stretch: Stretch) -> list[Stretch]:
    """Each boundary of a stretch as a separate input, for classifiers that are not causal."""
    return [
        Stretch(stretch.ids[: end + 1], [end], [step])
        for end, step in zip(stretch.positions, stretch.steps, strict=True)
    ]


def load_classifier(folder: Path) -> tuple[BoundaryModel, Any]:
    """The text classifier in `folder` and its tokenizer. InputError if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(str(folder), f"holds no classifier: {first_line(error)}") from error
    return BoundaryModel(model).eval(), tokenizer


def score_boundaries(rollouts: Sequence[Rollout], folder: Path, max_tokens: int, name: str = "Scoring") -> Boundaries:
    """The boundaries of `rollouts` with the text classifier's logits, computed in float32 as in serving."""
    model, tokenizer = load_classifier(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    logits = [np.zeros((len(rollout.steps), 2)) for rollout in rollouts]
    rows: list[tuple[int, Stretch]] = []
    for number, rollout in enumerate(rollouts):
        for stretch in stretches(tokenizer, rollout, max_tokens):
            rows.extend((number, row) for row in ([stretch] if model.causal else one_by_one(stretch)))
    pad = tokenizer.pad_token_id or 0
    with Progress(name, len(rows)) as progress, torch.inference_mode():
        for portion in portions([len(row.ids) for _, row in rows], _TOKENS_AT_ONCE):
            group = [rows[place] for place in portion]
            batch = pad_rows([row for _, row in group], pad)
            out = model(**{key: value.to(device) for key, value in batch.items()})[0].cpu().numpy()
            for row, (number, stretch) in enumerate(group):
                logits[number][stretch.steps] = out[row, : len(stretch.steps)]
            progress.advance(units=len(group))
    return flatten(rollouts, logits)


def flatten(rollouts: Sequence[Rollout], logits: Sequence[Reals], kind: Kind = "text") -> Boundaries:
    """The boundaries of `rollouts`; `logits[i]` [steps, J] are those of rollout i, by a judge of this kind."""
    unknown = [float("nan")] * len(FEATURE_NAMES)
    features = [row or unknown for rollout in rollouts for row in behaviour_features(rollout)]
    lengths = [len(rollout.steps) for rollout in rollouts]
    return Boundaries(
        kind,
        np.concatenate([*logits, np.zeros((0, len(JUDGE_LOGITS[kind])))]),
        np.asarray(features, dtype=np.float64).reshape(-1, len(FEATURE_NAMES)),
        np.asarray([bool(now) for rollout in rollouts for now in rollout.now], dtype=bool),
        np.asarray([now is not None for rollout in rollouts for now in rollout.now], dtype=bool),
        np.repeat([rollout.later for rollout in rollouts], lengths).astype(bool),
        np.repeat(np.arange(len(rollouts)), lengths),
        np.concatenate([*(np.arange(length) for length in lengths), np.zeros(0, dtype=np.int64)]).astype(np.int64),
        np.asarray([count for rollout in rollouts for count in answers_stated(rollout)], dtype=np.int64),
    )
