"""What a command says of answers whose grading exceeded a limit."""

from collections.abc import Sequence

from rich.console import Console

_SHOWN = 10


def show_over_limits(console: Console, cases: Sequence[str]) -> None:
    """Print how many answers there are and the first of them by name; nothing if there is none."""
    if not cases:
        return
    console.print(f"grading given up, counted as wrong: {len(cases):,}", highlight=False)
    for case in cases[:_SHOWN]:
        console.print(f"  {case}", highlight=False, markup=False)
    if len(cases) > _SHOWN:
        console.print("  ... all are named beside the figures", highlight=False)
