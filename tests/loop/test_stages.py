"""The table of an attempt's stages, explored."""

from hypothesis import given
from hypothesis import strategies as st

from drr.loop.stages import TRANSITIONS, Move, Stage


def test_every_stage_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(Stage)
    reached, new = {Stage.UNDECIDED}, [Stage.UNDECIDED]
    while new:
        following = set(TRANSITIONS[new.pop()].values()) - reached
        reached |= following
        new += following
    assert reached == set(Stage)


def test_an_answer_can_follow_from_everywhere_and_nothing_follows_an_answer() -> None:
    assert TRANSITIONS[Stage.ANSWERING] == {}
    ends = {Stage.ANSWERING}
    while True:
        more = {stage for stage, moves in TRANSITIONS.items() if ends & set(moves.values())} - ends
        if not more:
            break
        ends |= more
    assert ends == set(Stage)


@given(st.lists(st.sampled_from(list(Move)), max_size=30))
def test_only_a_refused_close_leads_back_to_thinking(moves: list[Move]) -> None:
    stage, closes, nudges = Stage.UNDECIDED, 0, 0
    for move in moves:
        following = TRANSITIONS[stage].get(move)
        if following is None:
            continue
        closes += move in (Move.CLOSE, Move.SKIP, Move.END)
        nudges += move is Move.NUDGE
        assert nudges <= closes
        if following is Stage.THINKING:
            assert move in (Move.OPEN, Move.NUDGE)
        if stage is Stage.REJECTED:
            assert following is Stage.ANSWERING, "a rejected attempt may only be answered from"
        stage = following
