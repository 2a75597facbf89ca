"""How a Reasoner marks its thinking: the port between its tokens and the loop, with one implementation per kind.

A format answers five questions. Is thinking open where the prompt ends? Does this stream of tokens open or close it?
Which tokens close it from outside? Is a tool call an end? Where does the answer stand when the turn ends?

Formats know tokens and their texts; they know nothing of vLLM, of scores or of clients. Which one a model gets is
decided in `drr.engine.formats`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from drr.loop.reasoner import Token
from drr.loop.scanners import ChannelScanner, IdScanner, Mark, OpeningScanner, Scanner, TextScanner

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens included."""

_TAIL = 4
"""Tokens at the end of a chain that are looked at for a line break."""

_UNKNOWN_TURN = 4096
"""Tokens at the end of a prompt that are looked at where nothing tells where its last turn begins."""


class Part(StrEnum):
    """What a stretch of a response's output is."""

    THINKING = "thinking"
    MARKER = "marker"
    """Opens or closes the thinking; nobody is shown it as text."""
    ANSWER = "answer"
    REFUSAL = "refusal"
    """What is said in place of an answer, where nobody answers."""
    REJECTED = "rejected"
    """Thinking of an attempt that was thrown away, where accepted thinking is shown as content."""


class TurnState(StrEnum):
    """Whether thinking is open where the prompt ends."""

    OPEN = "open"
    CLOSED = "closed"
    UNDECIDED = "undecided"
    """The prompt does not say; the first tokens of the output will."""


@dataclass(frozen=True, slots=True)
class TurnStart:
    """The state of the assistant turn that the prompt leaves unfinished. `prefilled` are the ids of thinking that the
    prompt holds already (a client continues a message that it gives)."""

    state: TurnState
    prefilled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat(ABC):
    """One Reasoner's. `header` are the ids that begin an assistant turn, `tool_header` those that begin one behind a
    tool's result, where that goes on without a `header`; `decode` is its tokenizer's.

    `open_ids` begin thinking. `close_ids` close it from outside, and `close_text` is their text, of the part
    `close_part`. `skip_ids` begin the answer of a turn that has not thought at all.
    """

    close_ids: tuple[int, ...]
    close_text: str
    open_ids: tuple[int, ...] = ()
    skip_ids: tuple[int, ...] = ()
    header: tuple[int, ...] = ()
    tool_header: tuple[int, ...] = ()
    decode: Decode | None = None

    def __post_init__(self) -> None:
        if not self.close_ids:
            raise ValueError("a reasoning format needs the token ids that close the thinking")

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name of the kind."""

    @property
    def close_part(self) -> Part:
        """What the closing tokens are to a client."""
        return Part.MARKER

    @property
    def turn_holds_answer(self) -> bool:
        """Whether a turn that ends without a marker holds its answer already."""
        return False

    @property
    def answer_prefix(self) -> str:
        """Text with which every forced answer begins."""
        return self.close_text if self.close_part is Part.ANSWER else ""

    @abstractmethod
    def opening(self) -> Scanner:
        """Watches an undecided output for the beginning of thinking, or of an answer without any."""

    @abstractmethod
    def closing(self) -> Scanner:
        """Watches thinking for its end."""

    def start(self, prompt_ids: Sequence[int]) -> TurnStart:
        """Where the prompt's last assistant turn stands. Earlier turns, and markers quoted in them, say nothing."""
        begins = self._turn_begins(prompt_ids)
        turn = prompt_ids[-_UNKNOWN_TURN:] if begins is None else prompt_ids[begins:]
        state, thinking_from = TurnState.UNDECIDED, 0
        scanner = self.opening()
        for place, token_id in enumerate(turn):
            found = scanner.feed(self._token(token_id))
            if found is None:
                continue
            if found.mark is Mark.OPENS:
                state, thinking_from, scanner = TurnState.OPEN, place + 1, self.closing()
            elif found.mark is not Mark.ANSWERS:
                state, scanner = TurnState.CLOSED, self.opening()
            elif begins is not None:  # in a prompt whose turns are not known, any text would look like an answer
                state = TurnState.CLOSED
        return TurnStart(state, self._prefilled(turn[thinking_from:]) if state is TurnState.OPEN else ())

    def close_behind(self, ids: Sequence[int]) -> tuple[tuple[int, ...], str]:
        """What closes the thinking at the end of a context: its ids, and its text."""
        return self.close_ids, self.close_text

    def think(self, prompt_ids: Sequence[int]) -> list[int]:
        """The prompt with the thinking open."""
        undecided = self.start(prompt_ids).state is TurnState.UNDECIDED
        return [*prompt_ids, *(self.open_ids if undecided else ())]

    def answer_at_once(self, prompt_ids: Sequence[int]) -> list[int]:
        """The prompt with its thinking over before it has begun."""
        state = self.start(prompt_ids).state
        if state is TurnState.CLOSED:
            return list(prompt_ids)
        return [*prompt_ids, *(self.skip_ids if state is TurnState.UNDECIDED else self.close_behind(prompt_ids)[0])]

    def behind_thinking(self, prompt_ids: Sequence[int], output: Sequence[Token]) -> int | None:
        """Index of the first token of an output that belongs to its answer; None where the thinking does not end."""
        state = self.start(prompt_ids).state
        if state is TurnState.CLOSED:
            return 0
        scanner = self.opening() if state is TurnState.UNDECIDED else self.closing()
        for place, token in enumerate(output):
            found = scanner.feed(token)
            if found is not None and found.mark is Mark.OPENS:
                scanner = self.closing()
            elif found is not None:
                return place + 1 - (found.tokens if found.mark in (Mark.ANSWERS, Mark.TOOL_CALL) else 0)
        return None

    def _turn_begins(self, prompt_ids: Sequence[int]) -> int | None:
        """Index of the first token of the last assistant turn; None where nothing tells."""
        begins = [behind_last(prompt_ids, header) for header in (self.header, self.tool_header)]
        return max((own for own in begins if own is not None), default=None)

    def _prefilled(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(ids) if self.decode is not None and self.decode(ids).strip() else ()

    def _token(self, token_id: int) -> Token:
        return Token(token_id, "" if self.decode is None else self.decode([token_id]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkerTokens(ReasoningFormat):
    """Thinking between two markers that the tokenizer never cuts or merges: special tokens, or sequences of them.

    `tool_ids` are the markers that open a tool call, where that is an end of the thinking.
    """

    tool_ids: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        ReasoningFormat.__post_init__(self)
        if not self.open_ids:
            raise ValueError("a thinking format needs the token ids of its opening and closing markers")
        if not self.skip_ids:
            object.__setattr__(self, "skip_ids", (*self.open_ids, *self.close_ids))

    @property
    def kind(self) -> str:
        return "marker tokens"

    def opening(self) -> Scanner:
        return OpeningScanner(IdScanner({self.open_ids: Mark.OPENS, self.close_ids: Mark.CLOSES}), len(self.open_ids))

    def closing(self) -> Scanner:
        return IdScanner({self.close_ids: Mark.CLOSES, **dict.fromkeys(self.tool_ids, Mark.TOOL_CALL)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMarkers(ReasoningFormat):
    """Thinking between two texts that the tokenizer may cut anywhere and merge with their neighbours."""

    open_text: str
    tool_texts: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "text markers"

    def opening(self) -> Scanner:
        marks = {self.open_text: Mark.OPENS, self.close_text: Mark.CLOSES}
        return OpeningScanner(TextScanner(marks), 1)

    def closing(self) -> Scanner:
        return TextScanner({self.close_text: Mark.CLOSES, **dict.fromkeys(self.tool_texts, Mark.TOOL_CALL)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels(ReasoningFormat):
    """Harmony (gpt-oss): a turn is a row of messages, each with a header that names its channel.

    `ids` are those of the tokens that structure a header, by name (start, channel, message, end); `thinking` names the
    channel of the thinking.
    """

    ids: dict[str, int] = field(default_factory=dict)
    thinking: str = "analysis"

    @property
    def kind(self) -> str:
        return "channels"

    def opening(self) -> Scanner:
        return ChannelScanner(self.ids, self.thinking, self._token, in_thinking=False)

    def closing(self) -> Scanner:
        return ChannelScanner(self.ids, self.thinking, self._token, in_thinking=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainChain(ReasoningFormat):
    """A chain of thought without markers: the whole turn is thinking, and ends with its answer.

    A stop from outside puts an answer cue (`close_ids`) behind the last step and lets the model finish. `joined_ids`
    are the cue's without the line breaks that begin it, for where the chain ends in such already. With `answer_apart`
    the chain is for `reasoning` alone: when the turn ends, the answer is asked for by the same cue. `tool_texts` open a
    tool call. `stops` are texts at which the client wants the turn to end.
    """

    joined_ids: tuple[int, ...] = ()
    answer_apart: bool = False
    tool_texts: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "plain chain of thought"

    @property
    def close_part(self) -> Part:
        return Part.ANSWER

    @property
    def turn_holds_answer(self) -> bool:
        return not self.answer_apart

    @property
    def answer_prefix(self) -> str:
        return self.close_text.lstrip()

    def close_behind(self, ids: Sequence[int]) -> tuple[tuple[int, ...], str]:
        ends_in_break = self.decode is not None and self.decode(ids[-_TAIL:]).endswith("\n")
        if ends_in_break and self.joined_ids:
            return self.joined_ids, self.close_text.lstrip("\n")
        return self.close_ids, self.close_text

    def opening(self) -> Scanner:
        return self.closing()

    def closing(self) -> Scanner:
        marks = {**dict.fromkeys(self.tool_texts, Mark.TOOL_CALL), **dict.fromkeys(self.stops, Mark.STOPS)}
        return TextScanner(marks)

    def answer_at_once(self, prompt_ids: Sequence[int]) -> list[int]:
        """As it is: there is no thinking that could be closed."""
        return list(prompt_ids)

    def behind_thinking(self, prompt_ids: Sequence[int], output: Sequence[Token]) -> int | None:
        """The whole turn may hold the answer."""
        return 0

    def start(self, prompt_ids: Sequence[int]) -> TurnStart:
        """Always open; what the client gave of the turn is thinking already."""
        begins = self._turn_begins(prompt_ids)
        return TurnStart(TurnState.OPEN, () if begins is None else self._prefilled(prompt_ids[begins:]))


def behind_last(ids: Sequence[int], header: tuple[int, ...]) -> int | None:
    """Index behind the last `header` in `ids`; None where there is none."""
    if not header:
        return None
    last = header[-1]
    for end in range(len(ids), len(header) - 1, -1):
        if ids[end - 1] == last and tuple(ids[end - len(header) : end]) == header:
            return end
    return None
