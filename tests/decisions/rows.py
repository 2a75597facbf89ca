"""Rows of a decision log as a server makes them."""

from typing import Any

from drr.decisions.schema import Row

_TOKENS = {
    **dict.fromkeys(("prompt", "thinking", "answer", "discarded"), 7),
    **dict.fromkeys(("probe", "injected", "late", "earlier"), 0),
}


def boundary(index: int, **given: Any) -> Row:
    """A boundary behind `10 * (index + 1)` tokens."""
    usual = {
        "attempt": 0,
        "index": index,
        "offset": 10 * (index + 1),
        "tokens": 10,
        "p_now": 0.25,
        "p_later": 0.5,
        "verdict": "continue",
        "ms": 1.5,
        "late": False,
        "features": [0.5, 0.25],
    }
    return {**usual, **given}


def row(number: int = 0, **given: Any) -> Row:
    """A complete response of a server that acts, without text."""
    usual: Row = {
        "id": f"chatcmpl-{number}",
        "choice": 0,
        "time": 1_700_000_000_000 + number,
        "model": "m",
        "reasoner": "0123456789abcdef",
        "adapter": None,
        "step_rule": "blank_line",
        "mode": "auto",
        "acts": True,
        "scorer": "dm",
        "judge": "dm-1",
        "settings": "{}",
        "sampling": {
            "temperature": 0.5,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": None,
            "max_tokens": 100,
        },
        "shaped_by": [],
        "finish": "complete",
        "finish_reason": "stop",
        "stop_cause": "sure",
        "tokens": dict(_TOKENS),
        "nudges": 0,
        "late": 0,
        "failed": 0,
        "question": "00ff00ff00ff00ff",
        "attempts": [],
        "boundaries": [boundary(0), boundary(1)],
        "canary": None,
        "text": None,
    }
    return {**usual, **given}
