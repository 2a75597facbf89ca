"""Training documents in which the Reasoner judges a proposed answer, immediately or after solving the question itself.

Without them self-critique, a baseline that an external judge has to beat, would not work at all.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from drr.judge.scorers.self_critique import critique_question
from drr.reference.traces import STEP_BREAK, THINK_CLOSE, Document, Piece, answer_text, attempt, slipped
from drr.tasks.arithmetic import Problem

_THOUGHT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Proposal:
    """An answer to a question, and the thinking that shows whether it is right."""

    question: str
    answer: str
    right: bool
    thinking: Sequence[Piece]


def critique_document(rng: random.Random, proposal: Proposal) -> Document:
    """A critique of the proposal, which in half of all cases thinks before its verdict."""
    asked = critique_question(proposal.question, proposal.answer)
    verdict = answer_text("yes" if proposal.right else "no")
    if rng.random() >= _THOUGHT_SHARE:
        return Document(asked, (Piece(THINK_CLOSE, learn=False), Piece(verdict)))
    seen = Piece(f"The proposed answer is {proposal.answer}.{STEP_BREAK}")
    return Document(asked, (*proposal.thinking, seen, Piece(THINK_CLOSE + verdict)))


def proposed_result(rng: random.Random, problem: Problem) -> Proposal:
    """The right result, or one that follows from a slip somewhere, with a correct attempt as the thinking. About a
    quarter of the slips drawn cannot be carried on, so five proposals in eight are right."""
    wrong = slipped(rng, problem.operations) if rng.random() < 0.5 else None
    result = (wrong or problem.operations)[-1].result
    return Proposal(problem.question.text, str(result), wrong is None, attempt(problem.operations))
