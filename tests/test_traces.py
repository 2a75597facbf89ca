"""Training documents: true where they teach, silent where they slip."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from drr.grading import stated_answer
from drr.reference.pretrain import PretrainConfig, encode, mixture_at
from drr.reference.tokenizer import END, THINK_CLOSE, VOCABULARY_SIZE, train_tokenizer
from drr.reference.traces import decomposed, first_attempt, full_trace, truncated
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
