"""Ask a running server one question with the plain OpenAI SDK and watch it think.

python -m clients.stream "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?"
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence

from openai import AsyncOpenAI
from rich.console import Console

from drr.arguments import OneSentenceParser
from drr.failures import guarded

_QUESTION = "Tom has 12 apples. He buys 3 bags of 8 apples each. He loses 7 of them. How many apples does Tom have now?"


async def ask(url: str, model: str, question: str, console: Console) -> None:
    """Stream the answer to `console`: thinking dimmed, then the answer, then what DRR did."""
    started = time.perf_counter()
    times: list[float] = []
    drr = None
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], stream=True
        )
        async for chunk in stream:
            for choice in chunk.choices:  # none in a chunk that tells of a step alone
                thought = getattr(choice.delta, "reasoning", None)
                if thought or choice.delta.content:
                    times.append(time.perf_counter() - started)
                console.print(thought or "", style="dim", end="", markup=False, highlight=False)
                console.print(choice.delta.content or "", style="bold", end="", markup=False, highlight=False)
            told = getattr(chunk, "drr", None) or {}
            drr = told if "stop_cause" in told else drr
    console.print()
    if drr:
        console.print(
            f"{drr['stop_cause']}: {drr['thinking_tokens']} thinking tokens, {drr['discarded_tokens']} discarded, "
            f"{len(drr.get('steps', []))} steps judged",
            style="green",
        )
        for step in drr.get("steps", []):
            console.print(
                f"  step {step['index']}: p_now {step['p_now']}, p_later {step['p_later']}, {step['verdict']}"
            )
    if times:
        console.print(f"first delta after {times[0]:.3f} s, last after {times[-1]:.3f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client; returns the exit status."""
    parser = OneSentenceParser(
        prog="clients.stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", nargs="?", default=_QUESTION)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="default: %(default)s")
    parser.add_argument("--model", default="drr-reference", help="default: %(default)s")
    options = parser.parse_args(argv)
    return guarded("clients.stream", lambda: asyncio.run(ask(options.url, options.model, options.question, Console())))


if __name__ == "__main__":
    sys.exit(main())
