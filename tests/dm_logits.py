"""Logits of the reference DM at a few boundaries, on the real engine, in a process of its own.

python -m tests.dm_logits      prints {"together": [[...], [...]], "alone": [[...], [...]], "computed": ...}
"""

import asyncio
import json
import sys

from transformers import AutoTokenizer

from drr import reference
from drr.engine.devices import prepare_environment
from drr.engine.open_dm import open_dm
from drr.judge.dm_input import DmInput
from drr.loop.scoring import Boundary

FOLDER = reference.dm_folder()
QUESTION = "Ann has 17 apples and buys 3 times as many. How many has she now?"
STEPS = [f"First I work out {i} times 17, which is {17 * i}.\n\n" for i in range(1, 7)]


def inputs(max_tokens: int = 1024) -> list[list[int]]:
    """The DM's input at every boundary."""
    context = DmInput(AutoTokenizer.from_pretrained(FOLDER), QUESTION, max_tokens)
    return [context.append(step) for step in STEPS]


async def main() -> None:
    """Judge an attempt whose boundaries all close at once; then all boundaries in one pass, of an input that is cached
    and of one that is not, and each alone."""
    counted = 0

    def count(computed: int, cached: int) -> None:
        nonlocal counted
        counted += computed

    own = inputs()
    ends = [len(ids) for ids in own]
    async with open_dm(FOLDER) as scorer:
        scorer._on_tokens = count
        session = scorer.session(QUESTION)
        await asyncio.gather(*(session.score(Boundary(index, step, None)) for index, step in enumerate(STEPS)))
        computed = counted
        repeated = await scorer.logits(own[-1], ends)
        alone = [(await scorer.logits(ids, [len(ids)]))[0] for ids in own]
        swapped = [[*own[0][::-1], *ids[ends[0] :]] for ids in own]  # nothing of this is cached
        first = await scorer.logits(swapped[0], ends[:1])
        together = await scorer.logits(swapped[-1], ends[1:])
        each = [(await scorer.logits(ids, [len(ids)]))[0] for ids in swapped]
    result = {
        "together": [[*first, *together], repeated],
        "alone": [each, alone],
        "computed": computed,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    prepare_environment(quiet=True)
    asyncio.run(main())
