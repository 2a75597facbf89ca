"""Graded questions to a server in front of an upstream, in several ways, with its account counted again.

    python -m benchmarks.upstream_questions QUESTIONS --url http://127.0.0.1:8000 [--limit 50] [--upstream URL]

Questions are read as by `drr distill` and asked by the OpenAI SDK. What the responses say that they took of the
upstream is summed and held against what the upstream itself counted, where it has `/metrics` and nobody else asks it.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import APIStatusError, AsyncOpenAI

from benchmarks.server_processes import metric
from drr.failures import guarded
from drr.tasks.grading_pool import Grading
from drr.tasks.questions import Question
from drr.tasks.sources import load_questions

WAYS: dict[str, dict[str, Any]] = {
    "full": {"mode": "off"},
    "stop": {"mode": "stop", "scorer": "confidence", "threshold": 0.9},
    "budget": {"mode": "off", "max_thinking_tokens": 64},
    "re-think": {"mode": "rethink", "scorer": "logprob", "max_rethinks": 1, "accept": 0.9},
    "abstain": {"mode": "rethink", "scorer": "logprob", "max_rethinks": 0, "accept": 0.9, "on_exhausted": "abstain"},
}
GENERATED = ("llamacpp:tokens_predicted_total", "vllm:generation_tokens_total")
"""Names under which upstreams count the tokens that they generated."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a question; `error` where nothing did."""

    content: str
    drr: dict[str, Any]
    completion_tokens: int
    error: str = ""


async def ask(client: AsyncOpenAI, model: str, question: str, way: dict[str, Any], max_tokens: int) -> Reply:
    """One question, asked in one way."""
    try:
        response = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_completion_tokens=max_tokens,
            temperature=0.6,
            seed=1,
            extra_body={"drr": way},
        )
    except APIStatusError as error:
        return Reply("", {}, 0, f"{error.status_code}: {error.message}")
    message, usage = response.choices[0].message, response.usage
    account: dict[str, Any] = (response.model_extra or {}).get("drr") or {}
    return Reply(message.content or "", account, usage.completion_tokens if usage else 0)


async def generated(upstream: str | None) -> float | None:
    """How many tokens an upstream has generated, by its own count; None where it does not tell."""
    if upstream is None:
        return None
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{upstream}/metrics")).text
    return next((metric(text, name) for name in GENERATED if f"\n{name}" in text), None)


def row(name: str, replies: Sequence[Reply], right: Sequence[bool], counted: float | None) -> dict[str, Any]:
    """The figures of one way of asking. `counted` is by how much the upstream's own count grew."""
    answered = [reply for reply in replies if not reply.error]
    costs = [reply.drr.get("cost") or {} for reply in answered]
    return {
        "way": name,
        "questions": len(replies),
        "errors": sorted({reply.error for reply in replies if reply.error}),
        "right": sum(right),
        "abstained": sum(reply.drr.get("stop_cause") == "abstained" for reply in answered),
        "attempts": sum(reply.drr.get("attempts", 1) for reply in answered),
        "causes": dict(Counter(str(reply.drr.get("stop_cause")) for reply in answered)),
        "usage": sum(reply.completion_tokens for reply in answered),
        "requests": sum(cost.get("requests", 0) for cost in costs),
        "prompt_tokens_sent": sum(cost.get("prompt_tokens_sent", 0) for cost in costs),
        "generated": sum(cost.get("completion_tokens", 0) for cost in costs),
        "estimated_requests": sum(cost.get("estimated_requests", 0) for cost in costs),
        "counted_by_upstream": counted,
    }


async def measure(options: argparse.Namespace, questions: Sequence[Question], grading: Grading) -> list[dict[str, Any]]:
    """A row for every way of asking."""
    found = []
    async with AsyncOpenAI(base_url=f"{options.url}/v1", api_key="none", max_retries=0, timeout=600) as client:
        model = options.model or (await client.models.list()).data[0].id
        gate = asyncio.Semaphore(options.clients)

        async def one(question: Question, way: dict[str, Any]) -> Reply:
            async with gate:
                return await ask(client, model, question.text, way, options.max_tokens)

        for name in options.way or WAYS:
            before = await generated(options.upstream)
            replies = await asyncio.gather(*(one(question, WAYS[name]) for question in questions))
            after = await generated(options.upstream)
            right = [
                await grading.right_soon(reply.content, question.answer or "", name)
                for reply, question in zip(replies, questions, strict=True)
            ]
            counted = None if before is None or after is None else after - before
            found.append(row(name, replies, right, counted))
            sys.stdout.write(json.dumps(found[-1]) + "\n")
            sys.stdout.flush()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print a line for every way, and return 1 where a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server, without /v1")
    parser.add_argument("--upstream", help="the server behind it, without /v1, to read its own count")
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--way", action="append", choices=tuple(WAYS), help="repeatable (default: all)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    questions = load_questions(options.questions, limit=options.limit).questions
    with Grading("auto") as grading:
        found = asyncio.run(measure(options, questions, grading))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(one["errors"] for one in found))


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.upstream_questions", main))
