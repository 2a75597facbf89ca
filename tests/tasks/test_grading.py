"""Grading: answers compared as mathematics, as choices and as text."""

from pathlib import Path

import pytest

from drr.errors import InputError
from drr.tasks.grading import is_correct, load_grader


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("The answer is 36.", "36", True),
        ("The answer is 36.", "37", False),
        ("The answer is 1,000.", "1000", True),
        ("The answer is 36.0.", "36", True),
        (r"\boxed{\frac12}", "0.5", True),
        (r"\boxed{\frac{1}{3}}", "0.5", False),
        ("It costs 12 dollars, so 12.", "12", True),
        ("", "3", False),
        ("no idea", "3", False),
    ],
)
def test_is_correct(response: str, gold: str, right: bool) -> None:
    assert is_correct(response, gold) is right


def test_a_grader_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_grader.py").write_text(
        "def even(response, gold):\n    return int(response) % 2 == 0\n\nnumber = 3\n"
    )
    grade = load_grader("own_grader:even")
    assert (grade("4", ""), grade("5", "")) == (True, False)
    with pytest.raises(
        InputError, match=r"--grader: 'own_grader:even' failed on the answer 'four', gold '4': ValueErr"
    ):
        grade("four", "4")


@pytest.mark.parametrize(
    "name", ["exact", ":f", "own_grader", "nowhere:f", "broken:f", "ending:f", "own:number", "own:f"]
)
def test_what_is_no_grader_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module, text in (("broken", "def f(:"), ("ending", "1 / 0"), ("own", "number = 3")):
        (tmp_path / f"{module}.py").write_text(text)
    with pytest.raises(InputError, match="--grader"):
        load_grader(name)
