"""Multiple choice about a small world: who stands where in a row, who lies, where a walk ends.

There are four options, or two for liars, so a guess is often right. Every puzzle carries the inferences that solve it.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drr.tasks.questions import Question, Split, seeded_questions

MIN_SIZE, MAX_SIZE = 3, 8
USUAL_SIZES = (3, 4, 5, 6)
NAMES = (
    "Tom",
    "Ben",
    "Sam",
    "Leo",
    "Max",
    "Dan",
    "Raj",
    "Ivan",
    "Ann",
    "Eva",
    "Mia",
    "Zoe",
    "Lily",
    "Sara",
    "Nina",
    "Ruth",
)
_LETTERS = "ABCD"
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


@dataclass(frozen=True, slots=True)
class Inference:
    """One step of reasoning: `premise` is stated in the question, `conclusion` follows from it and the step before.

    `wrong` are conclusions that a careless reader might draw instead.
    """

    premise: str
    conclusion: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A question, the inferences that solve it, and its options by letter."""

    question: Question
    inferences: tuple[Inference, ...]
    options: dict[str, str]

    @property
    def letter(self) -> str:
        return self.question.answer


def listed(options: Mapping[str, str]) -> str:
    """The options as a question lists them, every text followed by its letter."""
    return ", ".join(f"{text} {letter}" for letter, text in options.items()) + "."


def _puzzle(
    rng: random.Random, family: str, facts: list[str], asked: str, right: str, others: list[str], chain: list[Inference]
) -> Puzzle:
    rng.shuffle(facts)
    texts = [right, *rng.sample(others, min(len(_LETTERS) - 1, len(others)))]
    rng.shuffle(texts)
    options = dict(zip(_LETTERS, texts, strict=False))
    answer = next(letter for letter, text in options.items() if text == right)
    text = f"{' '.join(facts)} {asked} {listed(options)}"
    return Puzzle(Question(text, answer, family, len(chain)), tuple(chain), options)


def _row(rng: random.Random, size: int) -> Puzzle:
    """People in a row. The facts name neighbours in any order; the solution follows the row from its head."""
    people = rng.sample(NAMES, size + 1)
    facts = [f"{people[0]} is first in the row."]
    facts += [f"Behind {before} stands {after}." for before, after in itertools.pairwise(people)]
    wanted = rng.randint(max(1, size - 1), size)
    chain = []
    for place in range(1, wanted + 1):
        before, person = people[place - 1 : place + 1]
        wrong = tuple(f"{name} is {_PLACES[place]}" for name in people if name != person)
        chain.append(Inference(f"Behind {before} stands {person}", f"{person} is {_PLACES[place]}", wrong))
    others = [name for name in people if name != people[wanted]]
    return _puzzle(rng, "row", facts, f"Who is {_PLACES[wanted]}?", people[wanted], others, chain)


def _liars(rng: random.Random, size: int) -> Puzzle:
    """Everybody either always lies or never lies, and claims one of the two about the next person."""
    people = rng.sample(NAMES, size + 1)
    honest = [rng.random() < 0.5]
    facts = [f"{people[0]} {'never lies' if honest[0] else 'always lies'}."]
    chain = []
    for speaker, spoken_of in itertools.pairwise(people):
        says_honest = rng.random() < 0.5
        honest.append(says_honest == honest[-1])
        claim = f"{speaker} says that {spoken_of} {'never' if says_honest else 'always'} lies"
        facts.append(claim + ".")
        chain.append(
            Inference(
                f"{speaker} {'never' if honest[-2] else 'always'} lies; {claim}",
                f"{spoken_of} {'never' if honest[-1] else 'always'} lies",
                (f"{spoken_of} {'always' if honest[-1] else 'never'} lies",),
            )
        )
    right, other = ("never", "always") if honest[-1] else ("always", "never")
    return _puzzle(rng, "liars", facts, f"When does {people[-1]} lie?", right, [other], chain)


_MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, 1), "down": (0, -1)}
_NEAR = ((0, 1), (1, -1), (0, 2), (-1, -2), (1, 3))
"""Offsets from the right position to the wrong options, as somebody who miscounted might end up there."""


def _walk(rng: random.Random, size: int) -> Puzzle:
    """A walk on a grid. The facts come in order; the solution keeps track of the position."""
    name = rng.choice(NAMES)
    x = y = 0
    facts, chain, others = [f"{name} starts at 0 0."], list[Inference](), list[str]()
    for _ in range(size):
        direction, steps = rng.choice(list(_MOVES)), rng.randint(1, 9)
        x, y = x + steps * _MOVES[direction][0], y + steps * _MOVES[direction][1]
        facts.append(f"Then {steps} {direction}.")
        # No two options end in the same digit, because a small model finds a letter by the token before it.
        near = {f"{x + a} {y + b}"[-1]: f"{x + a} {y + b}" for a, b in _NEAR}
        others = [text for digit, text in near.items() if digit != str(y)[-1]]
        chain.append(Inference(f"{steps} {direction}", f"at {x} {y}", tuple(f"at {place}" for place in others)))
    return _puzzle(rng, "walk", [" ".join(facts)], f"Where is {name} now?", f"{x} {y}", others, chain)


_FAMILIES = {"row": _row, "liars": _liars, "walk": _walk}


def make_puzzle(rng: random.Random, size: int | None = None) -> Puzzle:
    """One puzzle whose chain has `size` links (3 to 8), by default 3 to 6. ValueError for another size."""
    size = size if size is not None else rng.choice(USUAL_SIZES)
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be {MIN_SIZE} to {MAX_SIZE}, not {size}")
    return rng.choice(list(_FAMILIES.values()))(rng, size)


def questions(seed: int, split: Split, count: int, sizes: Sequence[int] = USUAL_SIZES) -> list[Question]:
    """`count` distinct questions of `split`, every size equally often, in a shuffled order."""
    return seeded_questions("logic", lambda rng, size: make_puzzle(rng, size).question, sizes, seed, split, count)
