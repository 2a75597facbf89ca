"""The V1 sampler, mended: every request of a batch is told of the log-probabilities that it asked for."""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.sampler import Sampler

from drr.engine.v1_sampler import gather_each, mend_sampler

VOCABULARY = 23


@pytest.fixture(autouse=True)
def not_compiled() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


class Row:
    """What the first `width` columns of a row say."""

    def __init__(self, told: LogprobsTensors, row: int, width: int) -> None:
        self.ids = told.logprob_token_ids[row, :width].tolist()
        self.logprobs = told.logprobs[row, :width].tolist()
        self.rank = told.selected_token_ranks[row].item()
        self.rest = told.logprobs[row, width:].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and (self.ids, self.logprobs, self.rank) == (
            other.ids,
            other.logprobs,
            other.rank,
        )


WISHES = st.one_of(
    st.none(),  # nothing
    st.integers(0, VOCABULARY),  # so many of the likeliest
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=7, unique=True),  # ids by name
)


@given(st.lists(WISHES, min_size=1, max_size=8).filter(lambda wishes: any(map(_names, wishes))), st.integers(0, 2**31))
def test_every_row_gets_what_vllm_gives_it_alone(wishes: list[int | list[int] | None], seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    logprobs = torch.randn(len(wishes), VOCABULARY, generator=noise).log_softmax(-1)
    sampled = torch.randint(VOCABULARY, (len(wishes),), generator=noise)
    named = {row: wish for row, wish in enumerate(wishes) if isinstance(wish, list)}
    counts = [wish for wish in wishes if isinstance(wish, int)]

    told = gather_each(logprobs, named, sampled, max(counts, default=None))

    assert told.logprob_token_ids.dtype == torch.int32
    for row, wish in enumerate(wishes):
        if isinstance(wish, list):
            alone = Sampler().gather_specific_token_logprobs(logprobs, {row: wish}, sampled)
            assert alone is not None
            assert Row(told, row, 1 + len(wish)) == Row(alone, row, 1 + len(wish))
            assert set(Row(told, row, 1 + len(wish)).rest) <= {-math.inf}
        else:
            count = wish or 0
            alone = Sampler.gather_logprobs(logprobs, count, sampled)
            assert Row(told, row, 1 + count) == Row(alone, row, 1 + count)


def _names(wish: object) -> bool:
    return isinstance(wish, list)


def test_minus_one_is_the_whole_vocabulary() -> None:
    logprobs = torch.randn(2, VOCABULARY).log_softmax(-1)
    told = gather_each(logprobs, {0: [5]}, torch.tensor([1, 2]), -1)
    assert sorted(told.logprob_token_ids[1, 1:].tolist()) == list(range(VOCABULARY))
    assert told.logprobs[0, :2].tolist() == logprobs[0, [1, 5]].tolist()
    assert set(told.logprobs[0, 2:].tolist()) == {-math.inf}


def test_columns_that_are_unused_are_empty_also_where_logprobs_are_missing() -> None:
    logprobs = torch.full((1, VOCABULARY), -math.inf)
    logprobs[0, 4] = 0.0
    told = gather_each(logprobs, {0: [3, 4]}, torch.tensor([4]), 5)
    assert told.logprobs.tolist() == [[0.0, -math.inf, 0.0, -math.inf, -math.inf, -math.inf]]


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Sampler]]:
    """vLLM's sampler, mended until the test ends."""
    for name in ("forward", "gather_specific_token_logprobs"):
        monkeypatch.setattr(Sampler, name, getattr(Sampler, name))
    mend_sampler()
    yield Sampler
    del Sampler.drr_mended  # type: ignore[attr-defined]


def wishes_of(alternatives: int | None, named: dict[int, list[int]] | None) -> SimpleNamespace:
    """vLLM's sampling metadata of greedy requests."""
    return SimpleNamespace(
        max_num_logprobs=alternatives,
        logprob_token_ids=named,
        all_greedy=True,
        all_random=False,
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        output_token_ids=[],
        no_penalties=True,
        logitsprocs=SimpleNamespace(non_argmax_invariant=[]),
        thinking_budget_state_holder=None,
    )


def test_the_sampler_of_a_mixed_batch(sampler: type[Sampler]) -> None:
    logits = torch.randn(3, VOCABULARY)
    logprobs = logits.log_softmax(-1)
    best = logprobs.argmax(-1)
    told = sampler()(logits.clone(), wishes_of(2, {1: [7, 8, 9]})).logprobs_tensors
    assert told is not None
    assert told.logprob_token_ids[1].tolist() == [best[1], 7, 8, 9]
    assert told.logprobs[1, 1:].tolist() == logprobs[1, 7:10].tolist()
    for row in (0, 2):
        assert told.logprob_token_ids[row, 1:3].tolist() == logprobs[row].topk(2).indices.tolist()


def test_batches_in_which_nobody_names_ids_are_left_as_they_were(sampler: type[Sampler]) -> None:
    logits = torch.randn(3, VOCABULARY)
    assert sampler()(logits.clone(), wishes_of(None, None)).logprobs_tensors is None
    told = sampler()(logits.clone(), wishes_of(4, None)).logprobs_tensors
    assert told is not None
    assert torch.equal(told.logprobs[:, 1:], logits.log_softmax(-1).topk(4).values)


def test_mending_twice_is_mending_once(sampler: type[Sampler]) -> None:
    once = Sampler.forward, Sampler.gather_specific_token_logprobs
    mend_sampler()
    assert once == (Sampler.forward, Sampler.gather_specific_token_logprobs)
