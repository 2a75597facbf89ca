"""What a chat template tells of where a turn begins."""

import copy
from typing import Any

import pytest
from transformers import AutoTokenizer

from drr import reference
from drr.engine.formats import assistant_header, choose_format, encode, tool_header
from drr.loop.formats import TurnState

TOKENIZER = AutoTokenizer.from_pretrained(reference.reasoner_folder())
_TURNS = (
    "{% for m in messages %}{% if m.role == 'tool' %}CONTENT<|endoftext|>{% else %}<|im_start|>{{ m.role }}\n"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments + '' }}{% else %}{{ m.content.strip() }}{% endif %}"
    "<|im_end|>\n{% endif %}{% endfor %}"
)
GOES_ON = (
    _TURNS.replace("CONTENT", "{{ m.content }}")
    + "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|im_start|>assistant\n{% endif %}"
)
"""A template whose turns go on behind a tool's result, as DeepSeek's do, and that wants arguments as a text."""


def with_template(template: str | None) -> Any:
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.chat_template = template
    return tokenizer


def test_a_turn_that_goes_on_behind_a_tools_result_is_found() -> None:
    tokenizer = with_template(GOES_ON)
    assert assistant_header(tokenizer) == encode(tokenizer, "<|im_start|>assistant")
    assert tool_header(tokenizer) == encode(tokenizer, "<|endoftext|>")
    form = choose_format(tokenizer, "deepseek_r1").form
    messages = [{"role": "user", "content": "</think>"}, {"role": "tool", "content": "<think>"}]
    prompt = encode(tokenizer, tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    assert form.start(prompt).state is TurnState.UNDECIDED


@pytest.mark.parametrize(
    "template",
    [
        None,
        TOKENIZER.chat_template,
        GOES_ON.replace(" and messages[-1].role != 'tool'", ""),
        GOES_ON.replace("CONTENT", "").replace("{{ m.content }}", ""),
        GOES_ON.replace("<|endoftext|>", " so"),
        "{{ raise_exception('no') }}",
    ],
)
def test_elsewhere_a_header_begins_every_turn_or_nothing_tells(template: str | None) -> None:
    assert tool_header(with_template(template)) == ()
