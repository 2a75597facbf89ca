"""Random requests to the server that all tests share; `python -m tests.fuzz.requests` asks thousands."""

import pytest

from tests.fuzz.repeats import ASKED, repeat
from tests.fuzz.requests import run
from tests.fuzz.watch import still_answers, wait_until_idle, wrong_log
from tests.server.running import Server

_SEED = 7


async def test_random_requests_are_answered_truly_or_refused_with_a_name(server: Server) -> None:
    results = await run(server.url, _SEED, range(150), concurrency=4)
    assert [(result.number, result.violations) for result in results if result.violations] == []
    kinds = [result.kind for result in results]
    assert all(kinds.count(kind) >= least for kind, least in (("whole", 20), ("streamed", 20), ("refused", 10)))
    assert sum(result.asked > 1 for result in results) >= 8, "some are asked whole and streamed"
    assert await wait_until_idle(server.url) == []
    assert await still_answers(server.url) == []


def test_nothing_goes_wrong_in_the_log(server: Server) -> None:
    assert wrong_log(server.log) == []


async def test_seeded_requests_have_one_answer_beside_other_traffic(server: Server) -> None:
    told = await repeat(server.url, 3 * len(ASKED), concurrency=3, beside=2)
    assert [text for own in told.values() for text in own.wrong] == []
    assert {name: len(own.counts) for name, own in told.items()} == dict.fromkeys(ASKED, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_thousands_of_random_requests_and_repeats_leave_nothing_behind(server: Server) -> None:
    results = await run(server.url, _SEED + 1, range(2000), concurrency=6)
    assert [(result.number, result.violations) for result in results if result.violations] == []
    told = await repeat(server.url, 50 * len(ASKED), concurrency=3, beside=3)
    assert {name: len(own.counts) for name, own in told.items()} == dict.fromkeys(ASKED, 1)
    assert await wait_until_idle(server.url) == []
    assert wrong_log(server.log) == []
