"""Self-critique: the Reasoner is asked whether its own answer is right (Self-Refine, Reflexion)."""

import math
from collections.abc import Sequence

from drr.judge.scorers.probed import ProbingScorer, ProbingSession
from drr.loop.probing import Probe, ProbedToken
from drr.loop.reasoner import Token
from drr.loop.stated import answer_in

_VERDICT_TOKENS = 16
_THOUGHT_TOKENS = 1024
_YES, _NO = "yes", "no"


def critique_question(question: str, proposed: str, *, written: bool = False) -> str:
    """The message that asks the Reasoner whether `proposed` answers `question`; with `written`, for its reasons
    first."""
    if written:
        asked = "Is this answer right? Check it step by step, then end with a line that says only yes or no."
    else:
        asked = "Is this answer right? Answer yes or no."
    return f"{question}\n\nProposed answer: {proposed}\n\n{asked}"


class SelfCritiqueScorer(ProbingScorer):
    """P(yes) / (P(yes) + P(no)) in the Reasoner's verdict on its forced answer; 0.5 if it says neither.

    With `thinks` the Reasoner thinks before its verdict, which costs as many tokens as thinking does. One that has no
    thinking apart from its answer is asked to write down its reasons.
    """

    def __init__(self, *, thinks: bool = False) -> None:
        self.id, self._thinks = ("critique" if thinks else "self_critique"), thinks

    async def judge(self, session: ProbingSession, index: int, forced: Sequence[ProbedToken]) -> float:
        probe = session.probe
        written = self._thinks and probe.form.turn_holds_answer
        proposed = answer_in(await session.answers[index])
        ids = probe.ask(critique_question(session.question, proposed, written=written), think=self._thinks)
        if self._thinks:
            thought = await probe.complete(ids, _THOUGHT_TOKENS, 20)
            return yes_share(_verdict(probe, ids, thought))
        return yes_share(await probe.complete(ids, _VERDICT_TOKENS, 20))


def yes_share(verdict: Sequence[ProbedToken]) -> float:
    """P(yes) / (P(yes) + P(no)) at the first token that says either."""
    for token in verdict:
        if _word(token.text) in (_YES, _NO):
            yes, no = (
                sum(math.exp(logprob) for text, logprob in token.likeliest.items() if _word(text) == wanted)
                for wanted in (_YES, _NO)
            )
            return yes / (yes + no) if yes + no else float(_word(token.text) == _YES)
    return 0.5


def _verdict(probe: Probe, prompt_ids: Sequence[int], reply: Sequence[ProbedToken]) -> Sequence[ProbedToken]:
    """The tokens in which to look for the verdict, in this order: those after the thinking; in a format that does not
    mark where thinking ends, all tokens from the last to the first; none if the thinking did not end."""
    behind = probe.form.behind_thinking(prompt_ids, [Token(token.id, token.text) for token in reply])
    if behind is None:
        return ()
    return reply[::-1] if probe.form.turn_holds_answer else reply[behind:]


def _word(text: str) -> str:
    return text.strip().strip(".,:;!*\"'").casefold()
