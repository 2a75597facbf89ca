"""Decision logs as a server makes them: the loop is real, the engine is the fake one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm.sampling_params import SamplingParams

from drr.decisions.files import write_file
from drr.decisions.schema import Row, one_row
from drr.loop.reasoner import user_prompt
from drr.loop.response import Emit
from drr.loop.rule import Rule
from drr.loop.steps import StepRule
from server.choices import ChoiceMaker
from server.decisions.log import DecisionLog
from server.decisions.rows import LogIdentity
from server.plan import ResponsePlan
from server.resolve import resolve
from server.runtime import DrrRuntime
from server.schema import DrrRequest
from server.settings import Defaults
from tests.fake_engine import TOKENIZER, FakeEngine
from tests.fakes import FakeScorer

FINGERPRINT = "0123456789abcdef"
MAX_MODEL_LEN = 2048


class Rows:
    """A writer that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def submit(self, make: Any, size: int = 0) -> bool:
        self.rows.append(make())
        return True


def log_of(rows: Rows, *, text: bool = True, share: float = 1.0, key: bytes = b"k" * 32) -> DecisionLog:
    return DecisionLog(rows, LogIdentity("m", FINGERPRINT, "blank_line", key), share, text)


async def served(
    engine: FakeEngine,
    question: str,
    drr: dict[str, Any] | None = None,
    *,
    scores: Sequence[float] = (0.1,),
    number: int = 0,
    text: bool = True,
    cut_after: int | None = None,
    **sampling: Any,
) -> Row:
    """The row of a response. A client that leaves does so after `cut_after` events."""
    rows = Rows()
    log = log_of(rows, text=text)
    encoded = TOKENIZER.encode("Wait,", add_special_tokens=False)
    defaults = Defaults("auto", Rule(0.9), answer_tokens=64, deadline=60.0, nudge_cue_ids=tuple(encoded))
    runtime = DrrRuntime(engine.form, StepRule(), {"dm": FakeScorer(list(scores))}, defaults)
    plan = ResponsePlan(resolve(DrrRequest.parse(drr or {}), defaults), question, "dm-1")
    params = SamplingParams(**{"max_tokens": 400, "temperature": 0.5, "seed": number, **sampling})
    prompt = {"prompt_token_ids": user_prompt(TOKENIZER, question)}
    maker = ChoiceMaker(runtime, engine.generate, TOKENIZER, MAX_MODEL_LEN, {})
    choice = maker.choice(plan, prompt, params, f"chatcmpl-{number}", 0)
    logged = log.begin(plan, prompt, params, f"chatcmpl-{number}", {}, [choice.loop])
    assert logged is not None
    events, seen = choice.loop.run(), 0
    try:
        async for event in events:
            seen += 1
            if isinstance(event, Emit):
                plan.tell(0, event)
            logged.note(0, event)
            if cut_after is not None and seen >= cut_after:
                break
    finally:
        await events.aclose()
        logged.close(None)
    (row,) = rows.rows
    return row


def write_log(folder: Path, rows: Sequence[Row], name: str = "decisions-1.parquet") -> Path:
    """A folder with these rows in a file."""
    write_file(folder, name, [one_row(row) for row in rows])
    return folder
