"""Answers found in text."""

import time

import pytest

from drr.loop.stated import stated_answer, states_value


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 36.\n\n", "36"),
        ("The answer is 3.5.", "3.5"),
        ("the answer is: $1,200$.", "1,200"),
        ("Final Answer: 12", "12"),
        (r"First \boxed{5}, finally $\boxed{\frac{\sqrt{3}}{2}}$.", r"\frac{\sqrt{3}}{2}"),
        (r"Hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("work\n#### 70000", "70000"),
        ("The answer is 4. No, the answer is 5.", "5"),
        ("gain: 12+24=36.\n\n", None),
        ("", None),
    ],
)
def test_stated_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    "text", ["answer is x" + " " * 200_000, r"\boxed{" * 30_000, "answer is " * 20_000, "answer" + "\n" * 200_000]
)
def test_no_text_takes_more_than_one_pass(text: str) -> None:
    started = time.perf_counter()
    stated_answer(text)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("The answer is 18.", True),
        ("The answer is (B).", True),
        ("The answer is yes.", True),
        (r"So \boxed{x^2}", True),
        ("The answer is N.", False),
        ("The answer is x.", False),
        ("Nothing yet.", False),
    ],
)
def test_a_placeholder_is_no_value(text: str, holds: bool) -> None:
    assert states_value(text) is holds
