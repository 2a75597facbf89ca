"""What the trial of a shared DM asks for."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from benchmarks.answers import Answer
from benchmarks.shared_dm import Clients, Phase, Place, faults
from tests.local_http import served


def answer(decisions: int, failed: int, tokens: int, cause: str) -> Answer:
    judge = {"decisions": decisions, "failed": failed, "late": 0, "mean_ms": 5.0 if decisions > failed else None}
    return Answer("complete", "stop", 0.1, 2.0, {"judge": judge, "thinking_tokens": tokens, "stop_cause": cause})


def figures(name: str, *answers: Answer) -> dict[str, Any]:
    return Phase(name, 10.0, list(answers), 0).figures()


JUDGED, FAILED = answer(4, 0, 100, "sure"), answer(3, 3, 300, "judge_unavailable")


def test_figures_of_a_phase() -> None:
    found = figures("both servers", JUDGED, FAILED, Answer("broken", "ReadError", 0, 1.0))
    assert (found["answers"], found["complete"], found["scores_failed"]) == (3, 2, 3)
    assert (found["judged"], found["thinking_tokens"], found["dm_ms"]) == (0.5, 200, 5.0)
    assert found["causes"] == {"sure": 1, "judge_unavailable": 1}
    assert found["answers_per_second"] == pytest.approx(0.2)


def trial(**phases: list[Answer]) -> dict[str, Any]:
    usual = {"both servers": [JUDGED], "the DM killed": [FAILED], "the DM back": [JUDGED]}
    told = {**usual, **{name.replace("_", " "): answers for name, answers in phases.items()}}
    return {
        "judged_again_after": {"first": 1.0, "second": 2.0},
        "phases": [figures(name, *answers) for name, answers in told.items()],
    }


def test_all_is_well() -> None:
    assert faults(trial()) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (trial(both_servers=[JUDGED, Answer("broken", "ReadError", 0, 1.0)]), "both servers: 1 of 2 had no complete"),
        (trial(both_servers=[]), "both servers: 0 of 0"),
        (trial(the_DM_killed=[JUDGED]), "no score failed"),
        (trial(the_DM_back=[FAILED]), "nothing is judged"),
        ({**trial(), "judged_again_after": {"first": None, "second": 1.0}}, "first server: not judged again"),
    ],
    ids=["broken", "silent", "not its DM", "not back", "one not back"],
)
def test_faults_are_told(found: dict[str, Any], said: str) -> None:
    (told,) = faults(found)
    assert said in told


def played() -> FastAPI:
    app = FastAPI()
    app.state.asked = 0

    @app.post("/v1/chat/completions")
    async def chat() -> dict[str, Any]:
        app.state.asked += 1
        await asyncio.sleep(0.01)
        account = {"judge": {"decisions": 2, "failed": 0}, "thinking_tokens": 7, "stop_cause": "sure"}
        return {"choices": [{"finish_reason": "stop", "message": {"content": "4"}}], "drr": account}

    return app


async def test_clients_turn_to_the_other_server_where_one_is_gone() -> None:
    first, second = played(), played()
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10))
        url = await stack.enter_async_context(served(second))
        async with served(first) as gone:
            places = [
                Place(name, (), (), port=int(where.rsplit(":", 1)[1])) for name, where in (("a", gone), ("b", url))
            ]
            clients = Clients(http, places, 3)
            stack.push_async_callback(clients.leave)
            await asyncio.sleep(0.5)
            both = clients.phase("both").figures()
        await asyncio.sleep(0.5)
        one = clients.phase("one").figures()
        clients.here = places[1:]
        await asyncio.sleep(0.3)
        clients.phase("on the way")
        await asyncio.sleep(0.3)
        told = clients.phase("told").figures()
    assert first.state.asked > 3
    assert both["complete"] == both["answers"] > 6
    assert both["answered_by_the_other"] == 0
    assert one["complete"] == one["answers"] > 3
    assert one["answered_by_the_other"] > 0
    assert told["answered_by_the_other"] == 0
    assert told["causes"] == {"sure": told["complete"]}
