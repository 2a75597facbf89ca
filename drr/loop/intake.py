"""From tokens to events: where thinking opens, which steps close, where it ends. Pure and synchronous.

The intake owns an attempt's trace and knows its reasoning format and step rule. It decides nothing: what a closed step
or a closed thinking leads to is the loop's business.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from drr.loop.formats import Part, ReasoningFormat, TurnStart, TurnState
from drr.loop.reasoner import Token
from drr.loop.scanners import Found, Mark
from drr.loop.steps import Step, StepRule, StepSegmenter
from drr.loop.trace import Trace

_PIECES = re.compile(r"\S+\s*|\s+")
"""A text in pieces about as long as tokens."""


@dataclass(frozen=True, slots=True)
class ThinkingOpened:
    """The output begins with thinking."""


@dataclass(frozen=True, slots=True)
class NoThinking:
    """The output begins with an answer."""


@dataclass(frozen=True, slots=True)
class StepClosed:
    """The newest thinking token closed this step."""

    step: Step


@dataclass(frozen=True, slots=True)
class ThinkingClosed:
    """The Reasoner ended its thinking; `stop` is the client's stop text that did it, where one did, and `tool_call`
    tells whether a tool call did."""

    stop: str | None = None
    tool_call: bool = False


IntakeEvent = ThinkingOpened | NoThinking | StepClosed | ThinkingClosed


class Intake:
    """One attempt's. `start` is where its prompt leaves off."""

    def __init__(self, form: ReasoningFormat, rule: StepRule, prompt_ids: Sequence[int], start: TurnStart) -> None:
        self.trace = Trace(prompt_ids)
        self._form, self._rule = form, rule
        self._segmenter = StepSegmenter(rule)
        self._scanner = form.closing() if start.state is TurnState.OPEN else form.opening()
        self.prefilled_steps: list[str] = []
        """The steps of thinking that the prompt holds already, the one in progress last."""
        self._left_out = 0
        if start.prefilled and form.decode is not None:
            self._prefill(form.decode(start.prefilled))

    def _prefill(self, text: str) -> None:
        """Cut the thinking that the prompt holds into steps: the last of them may go on in the output."""
        segmenter = StepSegmenter(self._rule)
        found = [segmenter.feed(piece) for piece in _PIECES.findall(text)]
        self.prefilled_steps = [step.text for step in (*found, segmenter.finish()) if step is not None]

    # Tokens ------------------------------------------------------------------------------------------------

    def take_first(self, token: Token) -> IntakeEvent | None:
        """Take a token of an output that is not decided yet."""
        trace = self.trace
        trace.tokens.append(token)
        found = self._scanner.feed(token)
        if found is None:
            return None
        if found.mark is Mark.OPENS:
            self._share(found, Part.MARKER, Part.THINKING)
            self.begin_thinking()
            if found.behind:
                self._scanner.feed(Token(token.id, found.behind))  # it may be the beginning of the close
            return ThinkingOpened()
        trace.end_thinking(0, answer_from=None if found.mark is Mark.CLOSES else 0)
        return NoThinking()

    def take(self, token: Token, *, has_room: bool) -> IntakeEvent | bool | None:
        """Take a token of the thinking. False where it is thinking and there is no room for it: it is left out."""
        trace = self.trace
        trace.tokens.append(token)
        found = self._scanner.feed(token)
        if found is not None:
            return self._close(found)
        if not has_room:
            trace.tokens.pop()
            self._left_out = 1
            return False
        if self._scanner.silent:
            trace.share(len(trace) - 1, [(Part.MARKER, token.text)])
        return self.think()

    def think(self) -> StepClosed | None:
        """Take the newest token for thinking."""
        self.trace.think()
        step = self._segmenter.feed("" if self._scanner.silent else self.trace.tokens[-1].text)
        return None if step is None else StepClosed(step)

    def begin_thinking(self) -> None:
        """What comes from here on is thinking."""
        self.trace.start_thinking()
        self._segmenter = StepSegmenter(self._rule, start=len(self.trace))
        self._scanner = self._form.closing()

    def go_on_thinking(self) -> None:
        """A close has been taken back: look for the next one."""
        self._left_out = 0
        self.trace.answer_from = None
        self._scanner = self._form.closing()

    def _close(self, found: Found) -> ThinkingClosed:
        trace, marker_from = self.trace, len(self.trace) - found.tokens
        if marker_from < trace.thinking_from:
            return self._close_at_once(found)
        self._segmenter.drop(found.tokens - 1)
        if found.before:
            self._segmenter.extend(found.before)
        if found.mark is Mark.TOOL_CALL:
            if found.before:
                trace.share(marker_from, [(Part.THINKING, found.before), (Part.ANSWER, self._rest(marker_from, found))])
            trace.end_thinking(marker_from, answer_from=marker_from)
            return ThinkingClosed(tool_call=True)
        stopped = found.mark is Mark.STOPS
        self._share(found, Part.THINKING, Part.MARKER if stopped else Part.ANSWER)
        trace.end_thinking(marker_from)
        return ThinkingClosed(found.text if stopped else None)

    def _close_at_once(self, found: Found) -> ThinkingClosed:
        """The marker that closes begins in the token that ends the one that opens: there is no thinking."""
        trace = self.trace
        self._segmenter.drop(found.tokens - 1)
        first, last = trace.thinking_from - 1, len(trace) - 1
        trace.share(first, [(Part.MARKER, trace.tokens[first].text)])
        if found.behind:
            mark = trace.tokens[last].text.removesuffix(found.behind)
            trace.share(last, [(Part.MARKER, mark), (Part.ANSWER, found.behind)])
        trace.end_thinking(trace.thinking_from)
        return ThinkingClosed()

    def _rest(self, index: int, found: Found) -> str:
        return self.trace.tokens[index].text[len(found.before) :]

    def _share(self, found: Found, before: Part, behind: Part) -> None:
        """Give the text around a marker, in the marker's own tokens, to the parts that it belongs to."""
        if not found.before and not found.behind:
            return
        trace = self.trace
        first, last = len(trace) - found.tokens, len(trace) - 1
        texts: dict[int, list[tuple[Part, str]]] = {}
        if found.before:
            texts[first] = [(before, found.before), (Part.MARKER, self._rest(first, found))]
        if found.behind:
            whole = texts.get(last, [(Part.MARKER, trace.tokens[last].text)])
            mark = whole.pop()[1]
            texts[last] = [*whole, (Part.MARKER, mark[: len(mark) - len(found.behind)]), (behind, found.behind)]
        for index, parts in texts.items():
            trace.share(index, parts)

    # The end -----------------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        """The turn ended at the newest token, and with it the thinking, which holds its answer."""
        trace = self.trace
        end = len(trace) - 1
        trace.end_thinking(end, answer_from=end)

    def last_step(self) -> Step | None:
        """Close the step in progress; None if nothing is in it."""
        return self._segmenter.finish()

    @property
    def settled_end(self) -> int:
        """Where the thinking ends without what may be the beginning of a marker."""
        return min(len(self.trace), len(self.trace) + self._left_out - self._scanner.held)

    @property
    def undecided_from(self) -> int:
        """The first token of the thinking that may yet turn out to be a marker, or part of the next step."""
        end = self.settled_end
        held_from = self._segmenter.held_from
        return end if held_from is None else min(end, held_from)
