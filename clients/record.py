"""Record the examples that the playground opens with, from a running server of the reference models.

    drr serve &
    python -m clients.record

Each example is a question that the models were not trained on, asked twice with the same seed: with DRR, and with full
thinking that is judged but never stopped. One is there because stopping early loses its answer.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drr.arguments import OneSentenceParser
from drr.cli.chat.stream import AnswerError, ChatServer
from drr.cli.chat.trace import Run, trace_object
from drr.errors import InputError
from drr.failures import guarded
from drr.tasks import Question, Split
from drr.tasks.grading import is_correct
from drr.tasks.reference_suite import reference_questions

_OUT = Path(__file__).parents[1] / "server" / "playground" / "static" / "examples.json"
_EACH = 6
"""Test questions of each task and level among which the examples are."""


@dataclass(frozen=True, slots=True)
class Example:
    """What is asked: the question's place among the test questions, and the `drr` object."""

    title: str
    number: int
    drr: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1


EXAMPLES = (
    Example("Sums", 13),
    Example("Thinking again", 20, {"max_rethinks": 2}, seed=3),
    Example("Logic", 5),
    Example("Beyond the model", 2),
    Example("A price of stopping", 9),
    Example("The same at 1 % risk", 9, {"max_lost_correct": 0.01}),
)


def record(server: ChatServer, model: str, example: Example, question: Question) -> dict[str, Any]:
    """The trace of one example. AnswerError where the server does not answer."""
    runs = []
    for name, drr in (("drr", {"mode": "auto", **example.drr}), ("full", {"mode": "shadow", "report": "steps"})):
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question.text}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "seed": example.seed,
            "drr": drr,
        }
        run = Run(name, body, list(server.events(body)))
        run.right = is_correct(run.text("content"), question.answer)
        runs.append(run)
    return trace_object(question.text, runs, title=example.title, model=model)


def record_all(url: str, model: str, out: Path) -> None:
    """Write every example into `out`."""
    questions = reference_questions(Split.TEST, _EACH)
    server = ChatServer(url)
    try:
        record(server, model, EXAMPLES[0], questions[EXAMPLES[0].number])  # the first requests of a server are slow
        traces = [record(server, model, example, questions[example.number]) for example in EXAMPLES]
    except AnswerError as error:
        raise InputError("--url", str(error)) from error
    finally:
        server.close()
    out.write_text(json.dumps(traces, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recorder; returns the exit status."""
    parser = OneSentenceParser(
        prog="clients.record", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="default: %(default)s")
    parser.add_argument("--model", default="drr-reference", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=_OUT, help="default: the page's own file")
    options = parser.parse_args(argv)
    return guarded("clients.record", lambda: record_all(options.url, options.model, options.out))


if __name__ == "__main__":
    sys.exit(main())
