"""Run strategies on one set of questions, with the real engine and the loop that serves.

A question is sampled with the same seeds under every strategy, so that strategies can be compared question by question.
The outcomes of each strategy are stored in one Parquet file; a run that was stopped continues with the missing ones.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from drr.engine.generation_cache import GenerationCache
from drr.engine.open_reasoner import OpenReasoner
from drr.engine.sampling import sampling
from drr.engine.vllm_probe import VllmProbe
from drr.engine.vllm_reasoner import VllmReasoner, attempt_params
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.oracle import OracleScorer
from drr.evaluate.strategies import Strategy
from drr.files import check_same_settings, read_json_object, write_whole
from drr.learn.distill import draw_seed
from drr.learn.distill_folder import questions_key
from drr.learn.records import question_key
from drr.loop.attempt import ThinkingLoop
from drr.loop.reasoner import Phase, Segment, Token, injected, user_prompt
from drr.loop.response import Emit, Fate, Finished, LoopSettings, Outcome, Transcript
from drr.loop.rethink import RETHINK_CUE, RethinkLoop, RethinkSettings
from drr.loop.scoring import Scorer
from drr.loop.stated import answer_in
from drr.progress import Progress
from drr.tasks import Question
from drr.tasks.grading_pool import Grading

SETTINGS_NAME = "eval.json"
_DRAWS = 4
"""Changes whenever the same settings give other answers, or tokens are counted otherwise."""

_ANSWERED = (Fate.ACCEPTED, Fate.ANSWERED)

SCORE_DEADLINE = 86_400.0
"""Seconds in which a score must arrive; so long that no outcome depends on how busy the machine is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer. `group` is the question's family; `tokens` counts all tokens that were generated or injected, also
    those of probes and rejected attempts; `p_now` is the last score of the attempt that answered, NaN without a score;
    `unscored` counts the boundaries whose score failed or came too late."""

    question: int
    group: str
    sample: int
    answer: str
    right: bool
    tokens: int
    thinking_tokens: int
    probe_tokens: int
    attempts: int
    p_now: float
    unscored: int
    stop_cause: str


class Runner(Protocol):
    """Answers questions by strategies. `grading` keeps the answers whose grading exceeded a limit, `spared` is how much
    came from a cache."""

    grading: Grading

    @property
    def spared(self) -> int: ...

    async def run(self, strategy: Strategy, questions: Sequence[Question]) -> list[Row]:
        """The strategy's answers to all questions, in order."""
        ...


async def all_rows(
    strategy: Strategy, questions: Sequence[Question], concurrency: int, answer: Callable[[int, int], Awaitable[Row]]
) -> list[Row]:
    """The strategy's answers, so many under way at once: `answer` is given the numbers of question and sample."""
    slots = asyncio.Semaphore(concurrency)
    with Progress(strategy.name, len(questions) * strategy.samples) as progress:

        async def one(number: int, sample: int) -> Row:
            async with slots:
                row = await answer(number, sample)
            progress.advance()
            return row

        tasks = [(number, sample) for number in range(len(questions)) for sample in range(strategy.samples)]
        return list(await asyncio.gather(*(one(number, sample) for number, sample in tasks)))


def row_of(
    question: Question,
    number: int,
    sample: int,
    answer: str,
    outcome: Outcome,
    *,
    right: bool,
    unspent: int = 0,
) -> Row:
    """What one answer came to. `unspent` tokens were generated and are nothing that the question costs."""
    scores = [step for step in outcome.steps if step.p_now is not None]
    answered = [
        attempt.p_now for attempt in outcome.attempts if attempt.fate in _ANSWERED and attempt.p_now is not None
    ]
    p_now = answered[0] if answered else scores[-1].p_now if scores else None
    return Row(
        number,
        question.family,
        sample,
        answer_in(answer),
        right,
        outcome.generated_tokens + outcome.probe_tokens + outcome.injected_tokens - unspent,
        outcome.thinking_tokens,
        outcome.probe_tokens,
        max(1, len(outcome.attempts)),
        float("nan") if p_now is None else p_now,
        outcome.failed + outcome.late,
        outcome.stop_cause.value,
    )


class Evaluator:
    """Runs strategies on a Reasoner; `scorers` by name. `grading` keeps the answers whose grading exceeded a limit.
    Without a `cache`, what several strategies generate alike is generated for each of them."""

    def __init__(
        self,
        reasoner: OpenReasoner,
        scorers: dict[str, Scorer],
        grading: Grading,
        config: EvalConfig,
        cache: GenerationCache | None = None,
    ) -> None:
        self._reasoner = reasoner if cache is None else cache.before(reasoner)
        self._scorers, self.grading, self._config, self._cache = scorers, grading, config, cache
        self._nudge_cue = self._injected(config.nudge_cue)
        self._rethink_cue = self._injected(RETHINK_CUE)

    @property
    def spared(self) -> int:
        """How many of the Reasoner's streams came from the cache."""
        return 0 if self._cache is None else self._cache.hits

    def _injected(self, text: str) -> tuple[Token, ...]:
        return injected(self._reasoner.tokenizer.encode(text, add_special_tokens=False), text)

    async def run(self, strategy: Strategy, questions: Sequence[Question]) -> list[Row]:
        """The strategy's answers to all questions, in order."""

        async def answer(number: int, sample: int) -> Row:
            return await self._answer(strategy, questions[number], number, sample)

        return await all_rows(strategy, questions, self._config.concurrency, answer)

    async def _answer(self, strategy: Strategy, question: Question, number: int, sample: int) -> Row:
        transcript, outcome = Transcript(), Outcome()
        where = f"{strategy.name}: question {number}, sample {sample}"
        async for event in self._loop(strategy, question, sample, where).run():
            if isinstance(event, Emit):
                transcript.add(event)
            elif isinstance(event, Finished):
                outcome = event.outcome
        answer = transcript.answer(self._reasoner.form)
        right = await self.grading.right_soon(answer, question.answer, where)
        # An oracle knows at once: what is thought while its answer is looked up is nothing that a question costs.
        unspent = outcome.discarded_tokens if strategy.scorer == "oracle" else 0
        return row_of(question, number, sample, answer, outcome, right=right, unspent=unspent)

    def _scorer(self, strategy: Strategy, question: Question, first: VllmReasoner, where: str) -> Scorer | None:
        if strategy.scorer == "oracle":
            is_right = partial(self.grading.right_soon, gold=question.answer, where=f"{where}, oracle")
            return OracleScorer(partial(self._answer_now, first), is_right)
        return None if strategy.scorer is None else self._scorers[strategy.scorer]

    async def _answer_now(self, reasoner: VllmReasoner, context: list[int]) -> str:
        """The answer that the loop would give if it stopped here: the same request with the same seed."""
        ids = [*context, *self._reasoner.form.close_behind(context)[0]]
        segment = Segment(Phase.ANSWER, 1, ids, (), self._config.answer_tokens)
        async with contextlib.aclosing(reasoner.stream(segment)) as deltas:
            return self._reasoner.form.answer_prefix + "".join([delta.text async for delta in deltas])

    def _loop(self, strategy: Strategy, question: Question, sample: int, where: str) -> ThinkingLoop | RethinkLoop:
        reasoner, config = self._reasoner, self._config
        ids = user_prompt(reasoner.tokenizer, question.text)
        params = sampling(
            0.0 if strategy.greedy else config.temperature,
            seed=None if strategy.greedy else draw_seed(config.seed, question.text, f"{sample}"),
        )
        request_id = f"eval-{question_key(question.text)}-{sample}"

        def attempt(number: int) -> tuple[VllmReasoner, VllmProbe]:
            attempt_sampling = attempt_params(params, number, config.temperature) if number else params
            if number:  # attempt after attempt is what the samples are that other strategies combine
                attempt_sampling.seed = draw_seed(config.seed, question.text, f"{sample + number}")
            name = f"{request_id}-{number}"
            return reasoner.reasoner(ids, attempt_sampling, name), reasoner.probe(name)

        attempts = 1 if strategy.rethink is None else 1 + strategy.rethink.max_rethinks
        in_context = strategy.rethink is not None and strategy.rethink.kind == "in_context"
        room = min(config.max_tokens, reasoner.max_model_len - len(ids) - 1)
        settings = LoopSettings(
            policy=strategy.policy,
            max_tokens=room * attempts,
            context_limit=reasoner.max_model_len if in_context else len(ids) + room + len(reasoner.form.close_ids),
            max_thinking_tokens=strategy.max_thinking_tokens,
            answer_tokens=config.answer_tokens,
            deadline=SCORE_DEADLINE,
            nudge_cue=config.nudge_cue,
            nudge_cue_ids=tuple(token.id for token in self._nudge_cue),
        )
        first, probe = attempt(0)
        scorer = self._scorer(strategy, question, first, where)
        common = (scorer, reasoner.form, strategy.step_rule or config.step_rule, settings)
        if strategy.rethink is not None:
            # Where an attempt's own words hold its answer, those of rejected attempts have to be told apart.
            apart = reasoner.form.turn_holds_answer
            rethink = replace(strategy.rethink, cue=self._rethink_cue, thinking_is_content=apart)
            return RethinkLoop(attempt, *common, rethink, ids, question.text)
        return ThinkingLoop(first, *common, ids, question.text, probe=probe)


async def evaluate(
    evaluator: Runner,
    strategies: Sequence[Strategy],
    questions: Sequence[Question],
    out: Path,
    settings: dict[str, Any],
) -> None:
    """Run the strategies that `out` lacks. InputError if it holds outcomes of other `settings` or questions, or of a
    strategy of the same name with another definition."""
    _begin(out, {**settings, "questions": questions_key(questions)})
    for strategy in strategies:
        path = rows_path(out, strategy.name)
        definition = json.loads(json.dumps(asdict(strategy), default=str))
        if path.exists():
            check_same_settings(path, _completed(_about(path)["definition"]), definition)
            continue
        started, spared = time.monotonic(), evaluator.spared
        evaluator.grading.overruns.clear()
        rows = await evaluator.run(strategy, questions)
        table = pa.table({column.name: [getattr(row, column.name) for row in rows] for column in fields(Row)})
        over_limits = sorted(map(str, evaluator.grading.overruns))
        seconds = round(time.monotonic() - started, 1) if evaluator.spared == spared else None
        about = {"definition": definition, "seconds": seconds, "over_limits": over_limits}
        partial = path.with_suffix(".partial")
        pq.write_table(table.replace_schema_metadata({"drr": json.dumps(about)}), partial, compression="zstd")
        partial.replace(path)


def rows_path(out: Path, name: str) -> Path:
    """The file of a strategy's outcomes."""
    return out / f"{''.join(c if c.isalnum() or c in '.+' else '_' for c in name)}.parquet"


@dataclass(frozen=True, slots=True)
class StrategyOutcomes:
    """What one strategy did. `seconds` is None where parts of it came from a cache. `over_limits` names the answers
    whose grading exceeded a limit; they count as wrong."""

    name: str
    family: str
    seconds: float | None
    rows: list[Row]
    over_limits: tuple[str, ...] = ()


def read_outcomes(out: Path) -> list[StrategyOutcomes]:
    """Every strategy's outcomes in a folder. InputError if there are none."""
    found = []
    for path in sorted(out.glob("*.parquet")):
        about = _about(path)
        rows = [Row(**row) for row in pq.read_table(path).to_pylist()]
        definition, over_limits = about["definition"], tuple(about.get("over_limits", ()))
        found.append(StrategyOutcomes(definition["name"], definition["family"], about["seconds"], rows, over_limits))
    if not found:
        raise InputError(str(out), "holds no outcomes: run drr eval")
    return found


def _about(path: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(b"drr", b"{}"))
    if "definition" not in about:
        raise InputError(str(path), "holds no outcomes of drr eval")
    return about


def recorded_settings(config: EvalConfig) -> dict[str, Any]:
    """The settings that every outcome depends on: all but `concurrency`."""
    settings = asdict(config)
    del settings["concurrency"]
    return {**settings, "step_rule": str(config.step_rule), "draws": _DRAWS}


def _completed(definition: dict[str, Any]) -> dict[str, Any]:
    """A strategy's definition as it was recorded, with what has come to be settable since at its default, which
    changes nothing."""
    usual: dict[str, Any] = json.loads(json.dumps(asdict(Strategy("", "")), default=str))
    completed = {**usual, **definition}
    for name, defaults in (("policy", usual["policy"]), ("rethink", asdict(RethinkSettings()))):
        if completed[name] is not None:
            completed[name] = {**defaults, **completed[name]}
    return completed


def _begin(out: Path, settings: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / SETTINGS_NAME
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=1) + "\n")
    check_same_settings(out, read_json_object(path), settings)
