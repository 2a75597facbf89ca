"""Every reasoning parser of vLLM that fits a real tokenizer: what a client sees of a played Reasoner's turn.

The tokenizers of Qwen3, DeepSeek-V3 and gpt-oss are no part of the repository: they are looked for in
`shared/tokenizers` beside one of the folders that this file is in.
"""

import copy
import functools
import json
import lzma
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.reasoning import ReasoningParserManager
from vllm.tokenizers.hf import get_cached_tokenizer

from drr.engine.formats import DEFAULT_ANSWER_CUE, choose_format
from drr.errors import InputError
from drr.loop.formats import Channels, MarkerTokens, PlainChain, ReasoningFormat, TextMarkers, TurnState
from drr.loop.policy import StopCause
from tests.server.playing import Player, Script, Shown

_FOUND = [folder / "shared" / "tokenizers" for folder in Path(__file__).resolve().parents]
FOLDER = next((folder for folder in _FOUND if folder.is_dir()), None)

pytestmark = pytest.mark.skipif(FOLDER is None, reason="no folder shared/tokenizers with real tokenizers was found")

QUESTION = "How many apples has Tom?"
KEPT = "Tom has 12 apples.\n\n"
THINKING = KEPT + "He buys 3 bags of 8 (24 more) 🍎 right.\n\nSo it is 36."
ANSWER = "\n\nTom has **36** apples 🍎."
FORCED = "\n\nIt is 36."
"""What is played where the thinking was ended from outside."""

TOOLS = [
    {
        "type": "function",
        "function": {"name": "count", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}},
    }
]
CALL = '<tool_call>\n{"name": "count", "arguments": {"what": "apples\\n\\nbags"}}\n</tool_call>'
CALLED = [("count", {"what": "apples\n\nbags"})]
SIZES = (1, 3, 8)
"""Tokens in an output of the engine."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of a model that knows nothing of thinking."""


@dataclass(frozen=True)
class Model:
    """Whose tokenizer it is: `architecture` is its name in transformers, `end` ends a turn."""

    architecture: str
    end: str


MODELS = {
    "qwen3": Model("qwen3", "<|im_end|>"),
    "deepseek_v3": Model("deepseek_v3", "<｜end▁of▁sentence｜>"),  # noqa: RUF001  # DeepSeek's own bars
    "gptoss": Model("gpt_oss", "<|return|>"),
}


@functools.cache
def tokenizer_of(model: str) -> Any:
    """The tokenizer, as vLLM holds it; `qwen3_plain` is Qwen3's with a template without thinking."""
    if model == "qwen3_plain":
        plain = copy.copy(tokenizer_of("qwen3"))
        plain.chat_template = CHATML
        return plain
    assert FOLDER is not None
    with tempfile.TemporaryDirectory() as unpacked:
        folder = Path(unpacked)
        for file in (FOLDER / model).iterdir():
            if file.suffix == ".xz":
                (folder / file.stem).write_bytes(lzma.decompress(file.read_bytes()))
            else:
                (folder / file.name).write_bytes(file.read_bytes())
        config = {"model_type": MODELS[model].architecture, "transformers_version": "5.0.0"}
        (folder / "config.json").write_text(json.dumps(config))
        return get_cached_tokenizer(AutoTokenizer.from_pretrained(folder))


@dataclass(frozen=True)
class Case:
    """A tokenizer with the format that goes with a parser of vLLM's (with none: the automatic choice)."""

    model: str
    form: ReasoningFormat
    parser: str

    @property
    def tokenizer(self) -> Any:
        return tokenizer_of(self.model)

    @property
    def opening(self) -> str:
        """What opens the thinking, as text."""
        return self.text(self.form.open_ids)

    @property
    def closing(self) -> str:
        """What closes it, as text."""
        return self.text(self.form.close_ids)

    @property
    def lead(self) -> str:
        """What stands between the opening marker and the thinking."""
        return "\n" if isinstance(self.form, MarkerTokens | TextMarkers) else ""

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def ids(self, text: str) -> list[int]:
        """The ids of a whole text: neighbours are merged wherever the tokenizer does so."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def ended(self, text: str) -> list[int]:
        """The ids of a text that ends its turn."""
        return self.ids(text + MODELS[self.model.removesuffix("_plain")].end)

    def turn(self, thinking: str = THINKING, answer: str = ANSWER, *, opened: bool = False) -> list[int]:
        """A turn that thinks and answers; `opened` by the prompt already."""
        if isinstance(self.form, PlainChain):
            return self.ended(thinking + answer)
        opening = "" if opened else self.opening
        return self.ended(opening + self.lead + thinking + self.closing + answer)

    def prompt(self, *more: dict[str, Any], **options: Any) -> list[int]:
        """A conversation that the Reasoner is to reply to; the question comes before `more`."""
        messages = [{"role": "user", "content": QUESTION}, *more]
        if self.model == "gptoss":
            return self.ids("".join(map(_harmony, messages)) + "<|start|>assistant")
        if self.model.startswith("qwen3"):  # its template calls a method of every content
            messages = [{**message, "content": message["content"] or ""} for message in messages]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)
        return self.ids(text)


def _harmony(message: dict[str, Any]) -> str:
    """A message as gpt-oss reads it."""
    content = message["content"]
    match message["role"]:
        case "user":
            return f"<|start|>user<|message|>{content}<|end|>"
        case "tool":
            return f"<|start|>functions.count to=assistant<|channel|>commentary<|message|>{content}<|end|>"
        case _ if "tool_calls" in message:
            return "<|start|>assistant to=functions.count<|channel|>commentary json<|message|>{}<|call|>"
        case _:
            return f"<|start|>assistant<|channel|>final<|message|>{content}<|end|>"


def walk() -> list[Any]:
    """Every pair of a tokenizer and a parser of vLLM's that fits it, and every automatic choice."""
    if FOLDER is None:
        return []
    found = []
    for model in (*MODELS, "qwen3_plain"):
        parsers = ReasoningParserManager.list_registered() if model in MODELS else ()
        for parser in ("", *parsers):
            try:
                chosen = choose_format(tokenizer_of(model), parser)
            except InputError:
                continue
            found.append(pytest.param(Case(model, chosen.form, chosen.parser), id=f"{model}-{parser or 'automatic'}"))
    return found


CASES = walk()
every_case = pytest.mark.parametrize("case", CASES)


def cases_where(told: Callable[[Case], Any]) -> pytest.MarkDecorator:
    """Those of the cases for which `told` holds."""
    return pytest.mark.parametrize("case", [case for case in CASES if told(case.values[0])])


def one_of_each_kind(case: Case) -> bool:
    """A case for each way in which tokenizers and formats differ."""
    chosen = {
        ("qwen3", "deepseek_r1"),
        ("qwen3", "kimi_k3"),
        ("qwen3", "granite"),
        ("deepseek_v3", "qwen3"),
        ("deepseek_v3", ""),
        ("gptoss", "openai_gptoss"),
        ("gptoss", "glm45"),
        ("qwen3_plain", ""),
    }
    return (case.model, case.parser) in chosen


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plays a turn to a client that streams and to one that does not, in outputs of several sizes; what they see has to
    be the same."""

    async def played(
        case: Case, *turn: Any, sizes: Sequence[int] = (3,), tool_parser: str | None = None, **asked: Any
    ) -> tuple[Shown, Script]:
        player = Player(case.tokenizer, case.form, case.parser, monkeypatch, tool_parser)
        first: tuple[Shown, Script] | None = None
        for groups in sizes:
            for stream in (True, False):
                found = await player.shown(*turn, stream=stream, groups=groups, **asked)
                first = first or found
                seen, other = found[0], first[0]
                assert (seen.reasoning, seen.content, seen.calls) == (other.reasoning, other.content, other.calls), (
                    f"in groups of {groups}, {'streamed' if stream else 'whole'}"
                )
                assert len(found[1].asked) == len(first[1].asked)
        assert first is not None
        return first

    return played


def arguments_of(shown: Shown) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in shown.calls]


def drr_cue(case: Case) -> str:
    """What makes a plain chain answer behind a blank line."""
    return DEFAULT_ANSWER_CUE.lstrip("\n") if isinstance(case.form, PlainChain) else ""


# A turn --------------------------------------------------------------------------------------------------------


@every_case
async def test_a_natural_end_tells_the_thinking_from_the_answer(case: Case, play: Any) -> None:
    shown, script = await play(case, case.prompt(), case.turn(), sizes=SIZES)
    assert len(script.asked) == 1
    if isinstance(case.form, PlainChain):
        assert (shown.reasoning, shown.content) == ("", THINKING + ANSWER)
    else:
        assert (shown.reasoning, shown.content) == (case.lead + THINKING, ANSWER)
    assert shown.outcome.stop_cause is StopCause.NATURAL


@every_case
async def test_a_stop_closes_the_thinking_at_its_boundary_and_the_answer_is_content(case: Case, play: Any) -> None:
    prompt = case.prompt()
    shown, script = await play(case, prompt, case.turn(), case.ended(FORCED), sizes=SIZES, scores=(0.95,))
    thinking, content = ("", KEPT + drr_cue(case)) if isinstance(case.form, PlainChain) else (case.lead + KEPT, "")
    assert (shown.reasoning, shown.content) == (thinking, content + FORCED)
    assert shown.outcome.stop_cause is StopCause.SURE
    check_closed(case, script, case.opening + case.lead + KEPT)


@every_case
async def test_a_budget_ends_the_thinking_after_so_many_tokens(case: Case, play: Any) -> None:
    shown, script = await play(
        case, case.prompt(), case.turn(), case.ended(FORCED), drr={"mode": "off", "max_thinking_tokens": 4}
    )
    assert shown.outcome.thinking_tokens == 4
    assert shown.outcome.stop_cause is StopCause.MAX_THINKING_TOKENS
    thought = case.text(script.asked[1][len(script.prompt) : -len(case.form.close_ids)])
    check_closed(case, script, thought)
    if isinstance(case.form, PlainChain):
        assert (shown.reasoning, shown.content) == ("", thought + DEFAULT_ANSWER_CUE + FORCED)
    else:
        assert (case.opening + shown.reasoning, shown.content) == (thought, FORCED)
    assert THINKING.startswith(thought.removeprefix(case.opening).lstrip())


def check_closed(case: Case, script: Script, thought: str) -> None:
    """The answer was asked for behind this output and the ids that close it."""
    first, second = script.asked
    assert first == script.prompt
    assert second[: len(first)] == first
    closing = case.form.close_behind(case.ids(thought))[0]
    assert tuple(second[-len(closing) :]) == closing
    assert case.text(second[len(first) : -len(closing)]) == thought


@cases_where(lambda case: isinstance(case.form, MarkerTokens | TextMarkers))
async def test_a_stop_text_ends_the_answer_and_spares_the_thinking(case: Case, play: Any) -> None:
    shown, script = await play(case, case.prompt(), case.turn(), stop=["36"])
    assert (shown.reasoning, shown.content) == (case.lead + THINKING, ANSWER.partition("36")[0])
    assert len(script.asked) == 2, "the answer comes in a request of its own"


@cases_where(one_of_each_kind)
async def test_a_tool_parser_leaves_an_answer_without_a_call_alone(case: Case, play: Any) -> None:
    parser = "openai" if isinstance(case.form, Channels) else "hermes"
    shown, _ = await play(case, case.prompt(), case.turn(), tool_parser=parser, tools=TOOLS)
    assert (shown.reasoning + shown.content, shown.calls) == (case.lead + THINKING + ANSWER, [])
    stopped, _ = await play(
        case, case.prompt(), case.turn(), case.ended(FORCED), tool_parser=parser, tools=TOOLS, scores=(0.95,)
    )
    assert stopped.content == (KEPT + drr_cue(case) if isinstance(case.form, PlainChain) else "") + FORCED


@cases_where(lambda case: isinstance(case.form, PlainChain))
async def test_a_plain_chain_that_is_reasoning_has_its_answer_asked_for(case: Case, play: Any) -> None:
    shown, script = await play(
        case, case.prompt(), case.turn(), case.ended(FORCED), drr={"mode": "off", "thinking_in": "reasoning"}
    )
    assert (shown.reasoning, shown.content) == (THINKING + ANSWER, DEFAULT_ANSWER_CUE + FORCED)
    check_closed(case, script, THINKING + ANSWER)


# Prompts -------------------------------------------------------------------------------------------------------


def earlier_turns(case: Case) -> list[dict[str, Any]]:
    """What was said before: thinking with its markers, a user and a tool that quote them, and a call of the tool."""
    called = {"id": "call00001", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    opening, closing = case.opening, case.closing
    quoted = "" if isinstance(case.form, Channels) else f" What do {closing} and {opening} mean?"
    old = "" if isinstance(case.form, Channels) else f"{opening}\nold thinking\n{closing}"
    return [
        {"role": "assistant", "content": f"{old}\n\nI do not know."},
        {"role": "user", "content": f"Think again!{quoted}"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call00001", "name": "count", "content": f"12 {quoted}"},
    ]


def has_turns(case: Case) -> bool:
    """Whether anything tells where a turn begins: gpt-oss's tokenizer comes without a chat template."""
    return bool(case.form.header)


@cases_where(has_turns)
@pytest.mark.parametrize("turns", [2, 4])
def test_only_the_last_assistant_turn_says_whether_thinking_is_open(case: Case, turns: int) -> None:
    prompt = case.prompt(*earlier_turns(case)[:turns])
    undecided = TurnState.OPEN if isinstance(case.form, PlainChain) else TurnState.UNDECIDED
    start = case.form.start(prompt)
    assert (start.state, start.prefilled) == (undecided, ())
    opened = case.form.start([*prompt, *case.form.open_ids])
    assert (opened.state, opened.prefilled) == (TurnState.OPEN, ())


@cases_where(has_turns)
async def test_behind_earlier_turns_thinking_is_looked_for_and_held_to_its_budget(case: Case, play: Any) -> None:
    prompt = case.prompt(*earlier_turns(case))
    shown, _ = await play(case, prompt, case.turn())
    plain = isinstance(case.form, PlainChain)
    assert shown.content == (THINKING + ANSWER if plain else ANSWER)
    assert shown.reasoning == ("" if plain else case.lead + THINKING)
    limited, script = await play(
        case, prompt, case.turn(), case.ended(FORCED), drr={"mode": "off", "max_thinking_tokens": 4}
    )
    assert limited.outcome.thinking_tokens == 4
    assert limited.content.endswith(FORCED)
    assert len(script.asked) == 2


@cases_where(lambda case: not isinstance(case.form, PlainChain))
async def test_thinking_that_the_prompt_opens_is_thinking_from_the_first_token_on(case: Case, play: Any) -> None:
    prompt = [*case.prompt(), *case.form.open_ids]
    shown, _ = await play(case, prompt, case.turn(opened=True))
    assert (shown.reasoning, shown.content) == (case.lead + THINKING, ANSWER)
    stopped, script = await play(case, prompt, case.turn(opened=True), case.ended(FORCED), scores=(0.95,))
    assert (stopped.reasoning, stopped.content) == (case.lead + KEPT, FORCED)
    check_closed(case, script, case.lead + KEPT)


@cases_where(lambda case: not isinstance(case.form, PlainChain))
async def test_without_thinking_everything_is_content(case: Case, play: Any) -> None:
    switched_off = case.prompt(enable_thinking=False)
    if case.form.start(switched_off).state is not TurnState.CLOSED:
        switched_off = [*case.prompt(), *case.form.open_ids, *case.form.close_ids]
    answer = "**Tom** has 36.\n\nThat is 12 + 24 🍎."
    shown, script = await play(case, switched_off, case.ended(answer), scores=(0.95,))
    assert (shown.reasoning, shown.content) == ("", answer)
    assert len(script.asked) == 1
    assert shown.outcome.thinking_tokens == shown.outcome.injected_tokens == 0


@cases_where(lambda case: isinstance(case.form, MarkerTokens | TextMarkers))
async def test_an_answer_without_any_thinking_is_content(case: Case, play: Any) -> None:
    shown, script = await play(case, case.prompt(), case.ended("Tom has 36.\n\nNot less."), scores=(0.95,))
    assert (shown.reasoning, shown.content) == ("", "Tom has 36.\n\nNot less.")
    assert len(script.asked) == 1


# Tool calls ----------------------------------------------------------------------------------------------------


@cases_where(lambda case: isinstance(case.form, MarkerTokens) and case.form.tool_ids)
async def test_a_tool_call_in_the_thinking_ends_it_and_stays_whole(case: Case, play: Any) -> None:
    turn = case.ended(case.opening + "\n" + KEPT + "I count." + CALL)
    shown, script = await play(case, case.prompt(), turn, sizes=SIZES)
    assert (shown.reasoning, shown.content) == ("\n" + KEPT + "I count.", CALL)
    assert len(script.asked) == 1
    assert shown.outcome.injected_tokens == 0
    called, _ = await play(
        case, case.prompt(), turn, sizes=SIZES, tool_parser="hermes", tools=TOOLS, scores=(0.1, 0.1, 0.95)
    )
    assert (called.reasoning, called.content) == ("\n" + KEPT + "I count.", "")
    assert arguments_of(called) == CALLED


@cases_where(lambda case: case.model == "qwen3" and isinstance(case.form, MarkerTokens))
async def test_a_tool_call_behind_the_thinking_reaches_the_tool_parser(case: Case, play: Any) -> None:
    shown, _ = await play(case, case.prompt(), case.turn(answer=CALL), tool_parser="hermes", tools=TOOLS)
    assert (shown.reasoning, shown.content) == ("\n" + THINKING, "")
    assert arguments_of(shown) == CALLED


@cases_where(lambda case: case.model == "qwen3_plain")
async def test_a_tool_call_ends_a_plain_chain(case: Case, play: Any) -> None:
    turn = case.ended(KEPT + CALL)
    shown, script = await play(case, case.prompt(), turn, tool_parser="hermes", tools=TOOLS, scores=(0.1, 0.95))
    assert (shown.reasoning, shown.content) == ("", KEPT)
    assert arguments_of(shown) == CALLED
    assert len(script.asked) == 1


@cases_where(lambda case: case.model == "deepseek_v3" and isinstance(case.form, PlainChain))
async def test_a_tool_call_of_deepseeks_ends_a_plain_chain(case: Case, play: Any) -> None:
    call = (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>count\n```json\n"  # noqa: RUF001
        + json.dumps(CALLED[0][1])
        + "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"  # noqa: RUF001
    )
    turn = case.ended(KEPT + call)
    shown, script = await play(
        case, case.prompt(), turn, sizes=SIZES, tool_parser="deepseek_v3", tools=TOOLS, scores=(0.1, 0.95)
    )
    assert (shown.reasoning, shown.content) == ("", KEPT)
    assert arguments_of(shown) == CALLED
    assert len(script.asked) == 1


# Channels ------------------------------------------------------------------------------------------------------

_ANALYSIS = "<|channel|>analysis<|message|>"
_NEXT = "<|end|><|start|>assistant"
_ARGUMENTS = json.dumps(CALLED[0][1])


@cases_where(lambda case: isinstance(case.form, Channels))
@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.count <|constrain|>json",
        " to=functions.count<|channel|>commentary json",
        " to=functions.count<|channel|>commentary <|constrain|>json",
        "<|channel|>analysis to=functions.count <|constrain|>json",
        " to=functions.count<|channel|>analysis json",
    ],
)
@pytest.mark.parametrize("before", ["", _ANALYSIS + THINKING + _NEXT])
async def test_a_call_of_a_function_is_a_tool_call_in_any_channel(
    case: Case, header: str, before: str, play: Any
) -> None:
    turn = case.ids(before + header + "<|message|>" + _ARGUMENTS + "<|call|>")
    shown, script = await play(case, case.prompt(), turn, sizes=SIZES, tool_parser="openai", tools=TOOLS)
    assert (shown.reasoning, shown.content) == (THINKING if before else "", "")
    assert arguments_of(shown) == CALLED
    assert len(script.asked) == 1
    assert shown.outcome.injected_tokens == 0


@cases_where(lambda case: isinstance(case.form, Channels))
async def test_a_preamble_comes_before_the_call(case: Case, play: Any) -> None:
    turn = case.ids(
        f"{_ANALYSIS}{THINKING}{_NEXT}<|channel|>commentary<|message|>I count.{_NEXT}{_ANALYSIS}Now.{_NEXT}"
        f"<|channel|>commentary to=functions.count <|constrain|>json<|message|>{_ARGUMENTS}<|call|>"
    )
    shown, _ = await play(case, case.prompt(), turn, tool_parser="openai", tools=TOOLS)
    assert (shown.reasoning, shown.content) == (THINKING + "Now.", "I count.")
    assert arguments_of(shown) == CALLED


@cases_where(lambda case: isinstance(case.form, Channels))
async def test_headers_inside_the_thinking_are_not_shown(case: Case, play: Any) -> None:
    turn = case.ended(
        f"{_ANALYSIS}{KEPT}{_NEXT}{_ANALYSIS}He buys 24.{_NEXT}<|channel|>analysis to=python code<|message|>12 + 24"
        f"{_NEXT}<|channel|>final<|message|>{ANSWER}"
    )
    shown, _ = await play(case, case.prompt(), turn)
    assert (shown.reasoning, shown.content) == (KEPT + "He buys 24.12 + 24", ANSWER)


# Cuts ----------------------------------------------------------------------------------------------------------


@cases_where(one_of_each_kind)
@pytest.mark.parametrize("seed", range(6))
async def test_what_is_shown_does_not_depend_on_where_outputs_and_tokens_are_cut(
    case: Case, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script is cut into pieces that are encoded one by one: other tokens, the same text."""
    rng, player = random.Random(seed), Player(case.tokenizer, case.form, case.parser, monkeypatch)
    text, ids = case.text(case.turn()[:-1]), list[int]()
    while text:
        size = rng.randint(1, 6)
        piece, text = text[:size], text[size:]
        ids += case.ids(piece)
    ids.append(case.turn()[-1])
    if not isinstance(case.form, TextMarkers):
        ids = case.turn()
    plain = isinstance(case.form, PlainChain)
    for stream in (True, False):
        shown, _ = await player.shown(case.prompt(), ids, stream=stream, groups=rng)
        assert shown.content == (THINKING + ANSWER if plain else ANSWER)
        assert shown.reasoning == ("" if plain else case.lead + THINKING)
        shown, _ = await player.shown(case.prompt(), ids, case.ended(FORCED), stream=stream, groups=rng, scores=(0.95,))
        assert shown.content == (KEPT + drr_cue(case) if plain else "") + FORCED
        assert shown.reasoning == ("" if plain else case.lead + KEPT)


# Choosing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "parser"),
    [
        ("qwen3", "marker tokens", "deepseek_r1"),
        ("deepseek_v3", "plain chain of thought", ""),
        ("gptoss", "channels", "openai_gptoss"),
        ("qwen3_plain", "plain chain of thought", ""),
    ],
)
def test_without_a_parser_the_tokenizer_and_its_template_choose(model: str, kind: str, parser: str) -> None:
    chosen = choose_format(tokenizer_of(model))
    assert (chosen.form.kind, chosen.parser) == (kind, parser)


@pytest.mark.parametrize("model", MODELS)
def test_a_parser_that_does_not_fit_is_refused_in_a_sentence(model: str) -> None:
    fitting = {case.values[0].parser for case in CASES if case.values[0].model == model}
    refused = [*sorted(set(ReasoningParserManager.list_registered()) - fitting), "bogus"]
    assert len(refused) > 3
    for parser in refused:
        with pytest.raises(InputError) as error:
            choose_format(tokenizer_of(model), parser)
        assert str(error.value).startswith("--reasoning-parser: ")
        assert parser in str(error.value)
        assert "\n" not in str(error.value)
