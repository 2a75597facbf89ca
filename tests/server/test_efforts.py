"""A `reasoning_effort` is a preset of the `drr` object: the same at every endpoint, and the operator's to change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from drr.errors import InputError
from server.early import check_early
from server.efforts import Efforts, markdown_table, read_efforts
from server.keys import EFFORTS
from server.schema import DrrError, DrrRequest
from tests.server.played_app import THOUGHT, PlayedServer, played_server
from tests.server.test_truth_table import DEFAULTS, WITHOUT_JUDGE

MESSAGES = [{"role": "user", "content": "2 + 3?"}]
UNCALIBRATED = dataclasses.replace(DEFAULTS, calibration=None)


def meant(effort: str | None, asked: dict[str, Any] | None = None, **options: Any) -> dict[str, Any] | None:
    request = None if asked is None else DrrRequest.parse(asked)
    defaults, forced = options.get("defaults", DEFAULTS), options.get("forced_mode")
    found = Efforts().joined(request, effort, defaults, forced)
    return None if found is None else found.model_dump(exclude_none=True)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_preset_is_what_the_request_would_have_asked_for(effort: str) -> None:
    assert (meant(effort) or {}) == EFFORTS[effort]


def test_what_a_request_says_itself_stands() -> None:
    assert meant(None) is None
    assert meant("low", {"threshold": 0.7}) == {"threshold": 0.7}
    assert meant("low", {"report": "none"}) == {"report": "none", "max_lost_correct": 0.05}
    assert meant("none", {"max_thinking_tokens": 30}) == {"mode": "off", "max_thinking_tokens": 30}
    assert meant("low", {"max_thinking_tokens": 0}) == {"max_thinking_tokens": 0}
    assert meant("max", forced_mode="auto") == {"max_rethinks": 1}
    assert meant("max", forced_mode="off") is None
    assert meant("none", forced_mode="auto") == {"max_thinking_tokens": 0}


def test_a_dm_that_would_judge_nothing_is_refused() -> None:
    with pytest.raises(DrrError, match=r"drr.dm: has no effect: effort none leaves nothing to judge"):
        meant("none", {"dm": "small"})
    assert meant("none", {"dm": "small", "max_thinking_tokens": 5}) == {"dm": "small", "max_thinking_tokens": 5}


def test_a_risk_is_for_a_calibrated_judge_and_an_attempt_for_any() -> None:
    assert meant("low", defaults=UNCALIBRATED) is None
    assert meant("max", defaults=UNCALIBRATED) == EFFORTS["max"]
    for effort in ("low", "max"):
        assert meant(effort, defaults=WITHOUT_JUDGE) is None
        assert meant(effort, defaults=dataclasses.replace(DEFAULTS, mode="shadow")) is None
    assert meant("none", defaults=WITHOUT_JUDGE) == EFFORTS["none"]
    assert meant("none", defaults=dataclasses.replace(DEFAULTS, can_stop=False)) == {"mode": "off"}


def body_of(path: str, effort: str) -> dict[str, Any]:
    if path == "/v1/responses":
        return {"input": "2 + 3?", "reasoning": {"effort": effort}}
    if path == "/v1/messages":
        return {"messages": MESSAGES, "max_tokens": 1500, "output_config": {"effort": effort}}
    return {"messages": MESSAGES, "reasoning_effort": effort}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_every_endpoint_takes_the_word(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    presets = {"low": {"max_thinking_tokens": 4}, "max": {"mode": "rethink", "max_rethinks": 2, "accept": 0.9}}
    served = await played_server(monkeypatch, "--drr-effort-map", json.dumps(presets))

    async def account(effort: str) -> dict[str, Any]:
        served.play(THOUGHT, scores=[0.2])
        response = await served.post(path, body_of(path, effort))
        assert response.status_code == 200, response.text
        own: dict[str, Any] = response.json()["drr"]
        return own

    assert (await account("low"))["thinking_tokens"] == 4
    assert (await account("max"))["attempts"] == 3
    assert (await account("medium"))["stop_cause"] == "natural"
    if path != "/v1/messages":  # Anthropic has no such word: its thinking is disabled
        none = await account("none")
        assert (none["thinking_tokens"], none["settings"]["mode"]) == (0, "off")


async def test_none_thinks_not_at_all_without_a_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    served: PlayedServer = await played_server(monkeypatch, judge=False)
    served.play(THOUGHT)
    body = (await served.post("/v1/responses", body_of("/v1/responses", "none"))).json()
    assert body["drr"]["thinking_tokens"] == 0
    assert [item["type"] for item in body["output"]] == ["message"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("{", "is not JSON"),
        ("{}{", "is not JSON"),
        ('{"enormous": {}}', "'enormous' is no effort"),
        ('{"low": {"treshold": 1}}', "low.treshold: unknown key"),
        ('{"low": 3}', "low: must be an object"),
        ("nowhere.json", "there is no file nowhere.json"),
    ],
)
def test_a_map_that_says_nothing_is_refused_before_anything_starts(given: str, complaint: str) -> None:
    with pytest.raises(InputError, match=f"--drr-effort-map: {complaint}"):
        check_early(["--drr-effort-map", given])


def test_a_map_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "efforts.json"
    path.write_text('{"low": {"threshold": 0.5}}')
    found = read_efforts(str(path)).joined(None, "low", UNCALIBRATED, None)
    assert found is not None
    assert found.threshold == 0.5
    path.write_text("[]")
    with pytest.raises(InputError, match="must be an object"):
        read_efforts(str(path))


def test_a_preset_that_no_request_could_make_is_refused() -> None:
    efforts = read_efforts('{"low": {"max_lost_correct": 0.05}}')
    efforts.check(DEFAULTS)
    with pytest.raises(InputError, match=r"low.max_lost_correct: this judge has not been calibrated"):
        efforts.check(UNCALIBRATED)
    with pytest.raises(InputError, match=r"high.threshold: has no effect in mode off"):
        read_efforts('{"high": {"mode": "off", "threshold": 0.5}}').check(DEFAULTS)


def test_the_page_of_the_endpoints_tells_of_the_presets() -> None:
    page = Path(__file__).parents[2] / "docs" / "endpoints.md"
    assert markdown_table() in page.read_text()
