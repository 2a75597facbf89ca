"""What each stop cause means to whoever reads it, as data: the page of the causes is made from this table."""

from dataclasses import dataclass

from drr.loop.policy import StopCause


@dataclass(frozen=True, slots=True)
class Cause:
    """`by` ended the thinking, because of `why`; `then` is what an operator or a client may do about it."""

    cause: StopCause
    by: str
    why: str
    then: str = "Nothing: this is how it should be."


_REASONER, _JUDGE, _LIMIT, _NOBODY = "the Reasoner", "the judge", "a limit", "nobody"

CAUSES: tuple[Cause, ...] = (
    Cause(StopCause.NATURAL, _REASONER, "It closed its thinking itself."),
    Cause(StopCause.TOOL_CALL, _REASONER, "It began a tool call in the middle of its thinking."),
    Cause(
        StopCause.NO_THINKING,
        _REASONER,
        "There was no thinking: the prompt had closed it, or the Reasoner began with its answer.",
        "If you want thinking, look at the chat template's own switch (often `enable_thinking`).",
    ),
    Cause(
        StopCause.STOP_STRING,
        "the request",
        "One of the request's stop strings appeared in a chain of thought that is shown as content.",
        'Ask for `"thinking_in": "reasoning"`, or leave the stop string out.',
    ),
    Cause(StopCause.SURE, _JUDGE, "`p_now` reached the threshold: an answer here is likely to be right."),
    Cause(StopCause.HOPELESS, _JUDGE, "`p_later` is at most `hopeless`: more thinking is not expected to help."),
    Cause(
        StopCause.NO_GAIN, _JUDGE, "`p_later` is above `p_now` by no more than `min_gain`: more thinking gains little."
    ),
    Cause(StopCause.MAX_STEPS, _LIMIT, "The request's `max_steps` was reached.", "Raise it if answers are worse."),
    Cause(
        StopCause.MAX_THINKING_TOKENS,
        _LIMIT,
        "The request's `max_thinking_tokens` was reached.",
        "Raise it if answers are worse.",
    ),
    Cause(
        StopCause.THINKING_TOKEN_BUDGET,
        _LIMIT,
        "vLLM's own `thinking_token_budget` was reached.",
        "Raise it if answers are worse.",
    ),
    Cause(
        StopCause.ANSWER_RESERVE,
        _LIMIT,
        "What was left of `max_tokens` is kept for the answer (`answer_tokens`).",
        "Raise `max_tokens`.",
    ),
    Cause(
        StopCause.CONTEXT_LENGTH,
        _LIMIT,
        "What was left of the model's context is kept for the answer.",
        "Shorten the prompt, or serve with a larger `--max-model-len`.",
    ),
    Cause(
        StopCause.MAX_TOKENS,
        _LIMIT,
        "`max_tokens` was reached in the middle of the thinking, and there is no answer.",
        "Raise `max_tokens`, or set `answer_tokens` so that room for an answer is kept.",
    ),
    Cause(
        StopCause.RETHINK_LIMIT,
        _JUDGE,
        "Every attempt that `max_rethinks` allows was rejected. `on_exhausted` says which one answers all the same.",
        "Treat the answer with care, allow more attempts, or ask for an abstention.",
    ),
    Cause(
        StopCause.RETHINK_ROOM,
        _LIMIT,
        "Every attempt was rejected, and `max_tokens` or the context leaves no room for another.",
        "Raise `max_tokens` if more attempts are wanted.",
    ),
    Cause(
        StopCause.ABSTAINED,
        _JUDGE,
        'Every attempt was rejected, and the request said `"on_exhausted": "abstain"`: the answer is a refusal.',
        "Show `message.refusal`, or ask someone else.",
    ),
    Cause(
        StopCause.JUDGE_UNAVAILABLE,
        _NOBODY,
        "The judge could not be asked, so the thinking ran in full.",
        "Look at `/health` and at the server's log. Requests go on being answered meanwhile.",
    ),
    Cause(
        StopCause.UNCERTIFIED,
        _NOBODY,
        "The judge has no certified rule for the `max_lost_correct` that was asked for, so the thinking ran in full.",
        "Ask for a larger risk, or calibrate on more questions. `drr inspect` prints the certified risks.",
    ),
    Cause(
        StopCause.OFF,
        _NOBODY,
        "Nobody was asked to judge, and nothing limited the thinking.",
        "If a judge was wanted: start the server with `--dm`, and do not send mode `off`.",
    ),
)
"""All causes: the Reasoner's own ends first, then the judge's, limits, attempts that were rejected, and no judge."""


def markdown_table() -> str:
    """The table of the page of the causes."""
    rows = ["| `stop_cause` | ended by | why | what to do |", "| --- | --- | --- | --- |"]
    rows += [f"| `{cause.cause.value}` | {cause.by} | {cause.why} | {cause.then} |" for cause in CAUSES]
    return "\n".join(rows)
