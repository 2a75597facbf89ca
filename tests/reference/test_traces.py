"""Training documents: what carries training loss is right, and slips carry none."""

import random
import re
from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from drr import reference
from drr.loop.stated import stated_answer
from drr.reference.pretrain import (
    Batch,
    PretrainConfig,
    encode,
    mixture_at,
    packed_batch,
    pretrain,
    training_documents,
    with_wrong_digits,
)
from drr.reference.tokenizer import END, THINK_CLOSE, VOCABULARY_SIZE, train_tokenizer
from drr.reference.traces import Mixture, decomposed, first_attempt, full_trace, truncated
from drr.tasks.arithmetic import apply, make_problem

_SUM = re.compile(r"(\d+)([-+*/])(\d+)=$")


@given(seed=st.integers(0, 5000))
def test_full_traces_end_in_the_right_answer_and_teach_no_wrong_result(seed: int) -> None:
    problem = make_problem(random.Random(seed))
    document = full_trace(random.Random(seed), problem)
    text = "".join(piece.text for piece in document.pieces)
    thinking, answer = text.split(THINK_CLOSE)
    assert stated_answer(answer) == problem.question.answer
    assert stated_answer(thinking) == problem.question.answer
    before = ""
    for piece in document.pieces:
        computed = _SUM.search(before)
        if computed and piece.text.isdecimal():
            left, operator, right = computed.groups()
            true = str(apply(int(left), operator, int(right)))  # type: ignore[arg-type]
            assert piece.learn is (piece.text == true)
        before += piece.text


@given(seed=st.integers(0, 2000))
def test_first_attempts_and_cuts_do_not_teach_when_to_close(seed: int) -> None:
    problem = make_problem(random.Random(seed))
    for document in (first_attempt(problem), truncated(random.Random(seed), problem)):
        assert not any(piece.learn for piece in document.pieces if THINK_CLOSE in piece.text)
        assert document.pieces[-1].learn
        assert stated_answer(document.pieces[-1].text) == problem.question.answer


@given(left=st.integers(1, 1500), right=st.integers(1, 99), operator=st.sampled_from("+-*/"))
def test_decomposition_reaches_the_result(left: int, right: int, operator: str) -> None:
    if operator == "/":
        left *= right
    worked = decomposed(left, operator, right)
    for part in worked.split(", "):
        a, sign, b, result = re.fullmatch(r"(-?\d+)([-+*])(\d+)=(-?\d+)", part).groups()  # type: ignore[union-attr]
        assert apply(int(a), sign, int(b)) == int(result)  # type: ignore[arg-type]
    last = int(worked.rsplit("=", 1)[1])
    assert last == (left if operator == "/" else apply(left, operator, right))  # type: ignore[arg-type]


def test_encoding_masks_what_is_not_to_be_learned() -> None:
    problem = make_problem(random.Random(1), 3)
    document = first_attempt(problem)
    texts = [problem.question.text, "".join(piece.text for piece in document.pieces)]
    tokenizer = train_tokenizer(texts * 3)
    ids, labels = encode(document, tokenizer)
    assert len(ids) == len(labels)
    learned = tokenizer.decode([label for label in labels if label != -100])
    assert learned.startswith(document.pieces[0].text[:3])
    assert learned.endswith(document.pieces[-1].text + END)
    assert THINK_CLOSE not in learned
    assert problem.question.text not in learned


def test_tokenizer_keeps_digits_apart_and_any_text_whole() -> None:
    tokenizer = train_tokenizer(["so: 31*3=93.\n\nSo the answer is 93.\n\n"] * 4)
    assert len(tokenizer) <= VOCABULARY_SIZE
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1234")] == list("1234")
    for text in ("étoile 北京 🙂", "a\n\nb", "<think>x</think>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_curriculum_turns_to_full_traces_late() -> None:
    config = PretrainConfig()
    shares = [mixture_at(progress, config).full for progress in (0.0, 0.3, 0.5, 0.9)]
    assert shares == sorted(shares)
    assert shares[0] < 0.2 < 0.6 < shares[-1]
    mixture = mixture_at(0.45, config)
    assert abs(mixture.full + mixture.first + mixture.cut - 1) < 1e-9


def test_wrong_digits_come_only_where_they_may() -> None:
    digits = list(range(10, 20))
    tokens = [10, 11, 5, 12, 6] * 40
    where = [place >= 100 for place in range(200)]
    changed = with_wrong_digits(random.Random(0), tokens, where, digits)
    differ = [place for place, (old, new) in enumerate(zip(tokens, changed, strict=True)) if old != new]
    assert differ
    assert min(differ) >= 100
    assert all(tokens[place] in digits and changed[place] in digits for place in differ)
    assert len(differ) < 30


def test_noisy_documents_teach_surprise_and_nothing_else() -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    config = PretrainConfig(rows_per_step=4, row_length=512, surprise=0.3, noise=0.5)

    def batch(noise: float) -> Batch:
        rng = random.Random(0)
        documents = training_documents(rng, Mixture(full=0.0, first=1.0, cut=0.0))
        return packed_batch(rng, documents, tokenizer, replace(config, noise=noise))

    clean, mixed, noisy = batch(0.0), batch(0.5), batch(1.0)
    assert (noisy.labels == -100).all()
    assert 0 < (mixed.labels != -100).sum() < (clean.labels != -100).sum()
    assert noisy.assistant.any()
    assert not noisy.assistant[noisy.ids == tokenizer.pad_token_id].any()
    assert not noisy.assistant[:, 0].any()  # a document begins with its question
    assert ((clean.labels == -100) | clean.assistant).all()


def test_pretraining_goes_on_from_a_model_deeper_and_learns_surprise(tmp_path: Path) -> None:
    config = PretrainConfig(
        rows_per_step=2, row_length=256, tokens=2 * 256 * 3, extra_layers=1, surprise=0.3, noise=0.5
    )
    start = reference.reasoner_folder()
    figures = pretrain(tmp_path, config, start=start)
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (start, tmp_path))
    assert after.config.num_hidden_layers == before.config.num_hidden_layers + 1
    assert figures["tokens"] == 2 * 256 * 3
    assert figures["parameters"] == sum(parameter.numel() for parameter in after.parameters())
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.allclose(before(ids).logits.float(), after(ids).logits.float())
