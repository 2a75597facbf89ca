"""Answers found in text."""

import itertools
import random
import re
import time

import pytest

from drr.loop.stated import answer_in, stated_answer, states_value
from drr.reference.pretrain import training_documents
from drr.reference.traces import EARLY_MIXTURE, LATE_MIXTURE, STEP_BREAK


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 36.\n\n", "36"),
        ("The answer is 3.5.", "3.5"),
        ("the answer is: $1,200$.", "1,200"),
        ("Final Answer: 12", "12"),
        ("**Final Answer**: 12", "12"),
        (r"First \boxed{5}, finally $\boxed{\frac{\sqrt{3}}{2}}$.", r"\frac{\sqrt{3}}{2}"),
        (r"Hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{The answer is 5}", "5"),
        (r"\boxed{5} and in the end \boxed{}", "5"),
        (r"The answer is in the box: \boxed{5}", "5"),
        ("work\n#### 70000", "70000"),
        ("#### 72\n\n#### Explanation of all the steps\nThere are two.", "72"),
        ("##### Step 1\n#### B\n##### Step 2 of this\nmore", "B"),
        ("The answer is 4. No, the answer is 5.", "5"),
        ("The answer is C because I checked A first.", "C because I checked A first"),
        ("The answer is 72.\nLet me know if the answer is unclear!", "72"),
        ("The answer is 72. I am glad to tell you whether the answer is also 73.", "72"),
        ("The answer is 72. Suppose that your final answer is 73.", "72"),
        ("The answer is 72. I wonder what the answer is 7 days later.", "72"),
        ("The answer is 72! Is the answer clear?", "72"),
        ("The answer is 72. So the answer is 73?", "72"),
        ("The answer is 72. The answer isn't 73.", "72"),
        ("The answer is 72. The answer is not 73.", "72"),
        ("The answer is not 73 but 72.", "72"),
        ("The answer is 72. I think the answer is correct.", "72"),
        ("The answer is as follows:\nAnswer: 72", "72"),
        ("If we add them, the answer is 72.", "72"),
        ("The answer is 5! = 120.", "5! = 120"),
        ("The answer is correct.", "correct"),
        ("The answer is not guilty.", "not guilty"),
        ("If the answer is 72, we are done.", None),
        ("Is the answer 72?", None),
        ("gain: 12+24=36.\n\n", None),
        ("The answers are 5 and 6.", None),
        ("", None),
    ],
)
def test_stated_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 5.\nBye.", "5"),
        ("It is 5.\n\n", "It is 5."),
        ("It is 5.\nLet me know if you need more!", "It is 5."),
        ("Thanks!", "Thanks!"),
        (" \n", ""),
    ],
)
def test_without_a_statement_the_last_line_that_is_no_courtesy_is_the_answer(text: str, answer: str) -> None:
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "answer is x" + " " * 200_000,
        r"\boxed{" * 30_000,
        r"\boxed{" * 30_000 + "}" * 30_000,
        "answer is " * 20_000,
        "if the answer is " * 12_000,
        "answer" + "\n" * 200_000,
        "answer" + "*" * 200_000,
        "answer is 5" + ".*" * 100_000,
        "answer is 5" + "!" * 200_000 + "a",
        "answer is 5" + "! " * 100_000 + "a",
        "#### 1" + "1" * 200_000 + " word",
        "#### word\n" * 20_000,
        "answer is not " * 14_000,
        "answer is very " + "very " * 40_000,
    ],
)
def test_no_text_takes_more_than_one_pass(text: str) -> None:
    started = time.process_time()
    stated_answer(text)
    answer_in(text)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("The answer is 18.", True),
        ("The answer is (B).", True),
        ("The answer is yes.", True),
        (r"So \boxed{x^2}", True),
        ("The answer is N.", False),
        ("The answer is x.", False),
        ("If the answer is 18, stop.", False),
        ("Nothing yet.", False),
    ],
)
def test_a_placeholder_is_no_value(text: str, holds: bool) -> None:
    assert states_value(text) is holds


def test_in_the_reference_models_traces_a_statement_is_a_sentence_that_says_answer_is() -> None:
    """The shipped DM was trained on features that count such sentences: on these traces nothing else may count."""
    said = re.compile(r"answer is ([^\n]*?)\.?$", re.MULTILINE)
    found = 0
    for mixture in (EARLY_MIXTURE, LATE_MIXTURE):
        for document in itertools.islice(training_documents(random.Random(5), mixture), 400):
            text = "".join(piece.text for piece in document.pieces)
            for step in (*text.split(STEP_BREAK), text):
                sentences = said.findall(step)
                assert stated_answer(step) == (sentences[-1] if sentences else None)
                found += bool(sentences)
    assert found > 800
