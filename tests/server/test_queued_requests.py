"""vLLM's own limit on queued requests (`--max-num-queued-reqs`), on a real engine: who was let in gets the whole
response, however many engine requests that takes."""

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from benchmarks.answers import asked, judged
from tests.fuzz.watch import wait_until_idle
from tests.server.running import start, stop

LIMIT, CLIENTS, EACH = 40, 30, 4
COMPLETE = "HTTP 200: complete (stop)"


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_response_that_was_let_in_is_never_refused_half_way(tmp_path: Path) -> None:
    server = start(tmp_path / "log", "--max-num-queued-reqs", str(LIMIT), "--drr-max-waiting", str(CLIENTS))

    async def asks(http: httpx.AsyncClient, client: int) -> list[str]:
        found = []
        for number in range(EACH):
            streams = client % 2 == 0
            drr = {"mode": "rethink", "max_rethinks": 3, "parallel": 4}
            body = asked(100 * number + client, stream=streams, drr=drr)
            response = await http.post(f"{server.url}/v1/chat/completions", json=body)
            answer = judged(response.status_code, response.text, 0.0, 0.0, stream=streams)
            found.append(f"HTTP {response.status_code}: {answer.fate} ({answer.code})")
        return found

    try:
        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http:
            told = await asyncio.gather(*(asks(http, client) for client in range(CLIENTS)))
        counts = Counter(each for own in told for each in own)
        assert set(counts) <= {COMPLETE, "HTTP 200: complete (length)", "HTTP 503: error (503)"}, counts
        assert counts[COMPLETE] > 0
        assert await wait_until_idle(server.url) == []
    finally:
        stop(server)
