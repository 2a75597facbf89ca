"""Answers found in text."""

import pytest

from drr.loop.stated import stated_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 36.\n\n", "36"),
        ("The answer is 3.5.", "3.5"),
        ("the answer is: $1,200$.", "1,200"),
        ("Final Answer: 12", "12"),
        (r"Hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("work\n#### 70000", "70000"),
        ("The answer is 4. No, the answer is 5.", "5"),
        ("gain: 12+24=36.\n\n", None),
        ("", None),
    ],
)
def test_stated_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer
