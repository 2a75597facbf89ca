"""What the loop puts out becomes what vLLM's serving code expects, however it asked for it."""

from types import SimpleNamespace
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.loop.formats import Part
from drr.loop.reasoner import Token, injected
from drr.loop.response import Emit, Finished, Outcome
from server.assembler import OutputAssembler

_REASONER: Any = SimpleNamespace(first_output=None, last_output=None)


def emit(*ids: int) -> Emit:
    tokens = tuple(Token(own, f"<{own}>", detail={own: own / 10}) for own in ids)
    return Emit(tokens, "".join(token.text for token in tokens))


def outputs(kind: RequestOutputKind, events: list[tuple[int, Emit | Finished]], n: int = 1) -> list[RequestOutput]:
    params = SamplingParams(n=n, logprobs=1, output_kind=kind)
    assembler = OutputAssembler("request", {"prompt_token_ids": [7]}, params, _REASONER)
    return [output for index, event in events if (output := assembler.add(index, event)) is not None]


def shown(output: RequestOutput) -> list[tuple[int, str, list[int], str | None]]:
    for own in output.outputs:
        assert own.logprobs == [{token: token / 10} for token in own.token_ids]
    return [(own.index, own.text, list(own.token_ids), own.finish_reason) for own in output.outputs]


def end(reason: str = "stop") -> Finished:
    return Finished(Outcome(), reason, None)


ONE: list[tuple[int, Emit | Finished]] = [(0, emit(1, 2)), (0, emit(3)), (0, end())]


def test_deltas_hold_what_is_new() -> None:
    found = outputs(RequestOutputKind.DELTA, ONE)
    assert [shown(own) for own in found] == [
        [(0, "<1><2>", [1, 2], None)],
        [(0, "<3>", [3], None)],
        [(0, "", [], "stop")],
    ]
    assert [own.finished for own in found] == [False, False, True]


def test_cumulative_outputs_hold_all_so_far_and_do_not_change_afterwards() -> None:
    found = outputs(RequestOutputKind.CUMULATIVE, ONE)
    whole = (0, "<1><2><3>", [1, 2, 3])
    assert [shown(own) for own in found] == [[(0, "<1><2>", [1, 2], None)], [(*whole, None)], [(*whole, "stop")]]


def test_the_final_output_holds_every_choice_in_order_whichever_ended_first() -> None:
    found = outputs(
        RequestOutputKind.FINAL_ONLY,
        [(1, emit(4)), (0, emit(1, 2)), (1, emit(5)), (1, end("length")), (0, emit(3)), (0, end())],
        n=2,
    )
    assert [own.finished for own in found] == [True]
    assert shown(found[0]) == [(0, "<1><2><3>", [1, 2, 3], "stop"), (1, "<4><5>", [4, 5], "length")]


def test_tokens_that_nobody_generated_have_text_and_no_ids() -> None:
    cue = Emit(injected([8, 9], " so"), " so", Part.ANSWER)
    found = outputs(RequestOutputKind.DELTA, [(0, emit(1)), (0, cue), (0, end())])
    assert [shown(own) for own in found] == [[(0, "<1>", [1], None)], [(0, " so", [], None)], [(0, "", [], "stop")]]
    assert shown(outputs(RequestOutputKind.FINAL_ONLY, [(0, emit(1)), (0, cue), (0, end())])[0]) == [
        (0, "<1> so", [1], "stop")
    ]


def test_a_marker_that_nobody_generated_is_no_output_of_its_own() -> None:
    marker = Emit(injected([8], "</think>"), "</think>", Part.MARKER)
    found = outputs(RequestOutputKind.DELTA, [(0, emit(1)), (0, marker), (0, emit(2)), (0, end())])
    assert [shown(own)[0][2] for own in found] == [[1], [2], []]


def test_a_refusal_comes_with_the_end() -> None:
    refusal = Emit((), "not sure", Part.REFUSAL)
    found = outputs(RequestOutputKind.DELTA, [(0, refusal), (0, end())])
    assert [shown(own) for own in found] == [[(0, "not sure", [], "stop")]]
    assert shown(outputs(RequestOutputKind.FINAL_ONLY, [(0, refusal), (0, end())])[0]) == [(0, "not sure", [], "stop")]
