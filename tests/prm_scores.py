"""Scores of a few boundaries by a process reward model on the real engine, in a process of its own.

python -m tests.prm_scores MODEL      prints {"scores": [...], "again": ..., "other": ..., "ids": [...]}
"""

import asyncio
import json
import sys

from drr.engine.devices import prepare_environment
from drr.engine.open_prm import open_prm
from drr.loop.scoring import Boundary

QUESTION = "What is 1 + 2?"
STEPS = ["so: 1+2=3.\n\n", "Let me check.\n\n", "So the answer is 3.\n\n"]


async def main(model: str) -> None:
    """Score the steps, then one that outgrows the model, then the first step of another question."""
    async with open_prm(model) as scorer:
        session = scorer.session(QUESTION)
        scores = [await session.score(Boundary(index, text, None)) for index, text in enumerate(STEPS)]
        long = await session.score(Boundary(len(STEPS), "word " * 300, None))
        other = await scorer.session("Another?").score(Boundary(0, STEPS[0], None))
        ids = scorer.render(QUESTION, STEPS)
    found = [score.p_now for score in scores]
    result = {"scores": found, "again": long.p_now, "other": other.p_now, "ids": ids}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    prepare_environment(quiet=True)
    asyncio.run(main(sys.argv[1]))
