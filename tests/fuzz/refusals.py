"""What is wrong with a refusal. DRR's own name a field that was sent; vLLM's own need not, and are listed here."""

import re
from collections.abc import Iterator
from typing import Any

from tests.fuzz.asking import Answer
from tests.fuzz.draw import Drawn

NAMELESS: dict[str, str] = {
    "n must be at least 1|beam_width must be at least 1": "SamplingParams checks itself and names no field",
    "n must be 1 when using greedy sampling": "SamplingParams checks itself and names no field",
    "stop cannot contain an empty string": "SamplingParams checks itself and names no field",
    "presence_penalty must be in|frequency_penalty must be in": "SamplingParams checks itself and names no field",
    "min_tokens must be": "SamplingParams checks itself and names no field",
    "Grammar error": "the grammar is compiled where nothing is known of the request",
    "TextEncodeInput must be": "a lone surrogate is found out by the tokenizer",
    "surrogates not allowed": "a lone surrogate is found out by the model list",
    "requires --tool-call-parser|requires --enable-auto-tool-choice": "the options of the server are looked up there",
    "continue_final_message is set but": "the chat template is applied where nothing is known of the request",
    "empty conversation": "the chat template is applied where nothing is known of the request",
    "maximum context length|longer than the maximum model length": "the prompt is counted where nothing is known of it",
}
"""vLLM's refusals with `param` null, by their words, and why they are so. Plain endpoints answer the same."""


def wrong_refusal(drawn: Drawn, answer: Answer) -> Iterator[str]:
    """What is wrong with how a request was refused."""
    if answer.status not in (200, 400, 404):
        yield f"HTTP {answer.status}: {answer.error}"
        return
    if answer.error is None:
        return
    if answer.error == {"detail": "There was an error parsing the body"}:
        if not is_unreadable(drawn):
            yield "a readable body could not be parsed"
        return  # FastAPI's own, before anybody knows which API it is
    error = answer.error.get("error")
    if not isinstance(error, dict) or not {"message", "type", "param", "code"} <= error.keys():
        yield f"no error in OpenAI's shape: {answer.error}"
        return
    yield from _wrong_error(drawn, answer, error)


def _wrong_error(drawn: Drawn, answer: Answer, error: dict[str, Any]) -> Iterator[str]:
    message, param = error["message"], error["param"]
    if not isinstance(message, str) or not message:
        yield f"an error without a message: {error}"
        return
    if error["code"] not in (400, 404) or (answer.status != 200 and error["code"] != answer.status):
        yield f"HTTP {answer.status} with code {error['code']}: {message}"
    if (error["code"] == 404) is not ("does not exist" in message):
        yield f"code {error['code']} for: {message}"
    if param is None:
        if not any(re.search(words, message) for words in NAMELESS):
            yield f"a refusal that names no field: {message}"
    elif param.partition(".")[0] == "body":  # vLLM's own validation of the body
        if error["type"] != "Bad Request":
            yield f"param {param} for: {message}"
    elif param not in sent(drawn):
        yield f"param {param!r} was never sent ({message})"
    elif not message.startswith(f"{param}: ") and error["type"] == "BadRequestError" and _is_own(param):
        yield f"the message does not begin with its param {param!r}: {message}"


def is_unreadable(drawn: Drawn) -> bool:
    """Whether Python's JSON parser gives the body up."""
    return re.search(rb"\d{4301}", drawn.content()) is not None


def sent(drawn: Drawn) -> set[str]:
    """Every name that a refusal may use."""
    names = {*drawn.body, *drawn.headers}
    source = "drr" if "drr" in drawn.body else "X-DRR"
    if isinstance(drawn.drr, dict):
        names |= {f"{source}.{str(key)[:80]}" for key in drawn.drr}
    return names


def _is_own(param: str) -> bool:
    return param.partition(".")[0] in ("drr", "X-DRR")
