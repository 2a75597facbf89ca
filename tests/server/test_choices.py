"""How a choice's settings follow from its format."""

import copy
from typing import Any

import pytest
from transformers import AutoTokenizer

from drr import reference
from drr.engine.formats import DEFAULT_ANSWER_CUE, choose_format
from tests.server.playing import Player

TOKENIZER = copy.copy(AutoTokenizer.from_pretrained(reference.reasoner_folder()))
TOKENIZER.chat_template = None


@pytest.mark.parametrize("drr", [{"mode": "off"}, {"mode": "shadow"}, {"threshold": 1.0}])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_chain_that_is_reasoning_has_its_answer_asked_for_in_every_mode(
    drr: dict[str, Any], stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = Player(TOKENIZER, choose_format(TOKENIZER).form, "", monkeypatch)
    chain, answer = player.encode("12+24=36.\n\nSo it is 36.<|im_end|>"), player.encode(" 36.<|im_end|>")
    asked = {**drr, "thinking_in": "reasoning"}
    shown, script = await player.shown([7], chain, answer, stream=stream, drr=asked)
    assert (shown.reasoning, shown.content) == ("12+24=36.\n\nSo it is 36.", DEFAULT_ANSWER_CUE + " 36.")
    assert script.asked[1] == [7, *chain[:-1], *player.form.close_ids]
