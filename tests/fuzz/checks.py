"""Everything that is checked of an answer."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from server.wire import Account, Accounts, StreamedStep
from tests.fuzz.asking import Answer
from tests.fuzz.causes import wrong_cause, wrong_end, wrong_header, wrong_settings, wrong_steps
from tests.fuzz.counts import wrong_attempts, wrong_limits, wrong_shown, wrong_text, wrong_usage
from tests.fuzz.draw import Drawn
from tests.fuzz.refusals import wrong_refusal


def violations(drawn: Drawn, answer: Answer) -> list[str]:
    """What is wrong with this answer to this request, one sentence each."""
    found = list(answer.broken)
    if answer.cancelled or answer.status == 0:
        return found
    found += wrong_refusal(drawn, answer)
    if found or answer.error is not None:
        return found
    return [
        *_wrong_shape(drawn, answer),
        *wrong_usage(drawn, answer),
        *wrong_header(answer),
        *_by_choice(drawn, answer),
    ]


def _wrong_shape(drawn: Drawn, answer: Answer) -> Iterator[str]:
    if sorted(answer.choices) != list(range(drawn.body.get("n") or 1)):
        yield f"choices {sorted(answer.choices)} of {drawn.body.get('n')}"
    if any(choice.ends != 1 for choice in answer.choices.values()):
        yield "a choice without an end, or with two"
    wants = drawn.keys.get("report") != "none"
    if (answer.drr is not None) is not wants:
        yield f"the account is {'missing' if wants else 'there'}"
    if answer.drr is not None:
        try:
            (Accounts if "choices" in answer.drr else Account).model_validate(answer.drr)
        except ValidationError as error:
            yield f"the account does not fit its schema: {error}"
        if len(answer.accounts) != len(answer.choices):
            yield f"{len(answer.accounts)} accounts of {len(answer.choices)} choices"
    if answer.streamed:
        yield from _wrong_stream(drawn, answer)


def _wrong_stream(drawn: Drawn, answer: Answer) -> Iterator[str]:
    shows_steps = "drr" in drawn.body and drawn.body["drr"] is not None and (answer.drr or {}) != {}
    told: list[dict[str, Any]] = []
    for index, account in enumerate(answer.accounts):
        told += [{"choice": index, **step} for step in account.get("steps") or []]
        delta = {key: value for key, value in answer.delta_reports.get(index, {}).items() if key != "settings"}
        if delta != {key: value for key, value in account.items() if key not in ("settings", "index")}:
            yield "the account in the choice's last delta is another"
    for step in answer.steps:
        StreamedStep.model_validate(step)
    expected = told if shows_steps else []
    if sorted(answer.steps, key=_place) != sorted(expected, key=_place):
        yield f"streamed steps {answer.steps} are not those of the account {expected}"


def _place(step: dict[str, Any]) -> tuple[int, int, int]:
    return step["choice"], step["attempt"], step["index"]


def _by_choice(drawn: Drawn, answer: Answer) -> Iterator[str]:
    if answer.drr is None:
        return
    for index, bare in zip(sorted(answer.choices), answer.accounts, strict=True):
        account, choice = {"settings": answer.drr["settings"], **bare}, answer.choices[index]
        yield from wrong_settings(drawn, account)
        yield from wrong_limits(drawn, answer, account)
        yield from wrong_shown(drawn, answer, choice, account)
        yield from wrong_text(drawn, choice, account)
        yield from wrong_attempts(account)
        yield from wrong_cause(drawn, choice, account)
        yield from wrong_end(drawn, choice, account)
        yield from wrong_steps(account)
