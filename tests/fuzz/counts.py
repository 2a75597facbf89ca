"""What is wrong with the counts of an answer: usage, tokens shown, log-probabilities, attempts."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import AutoTokenizer

from drr import reference
from tests.fuzz.asking import Answer, Choice
from tests.fuzz.draw import Drawn

CONTEXT = 2048
"""Of the reference Reasoner."""

Account = dict[str, Any]

TOKENIZER = AutoTokenizer.from_pretrained(reference.reasoner_folder())
_CLOSE = "</think>"


def total(account: Account) -> int:
    """All tokens that were generated for a choice, probes too."""
    return kept(account) + int(account["discarded_tokens"]) + int(account["probe_tokens"])


def kept(account: Account) -> int:
    """The thinking and the answer of a choice."""
    return int(account["thinking_tokens"]) + int(account["answer_tokens"])


def wrong_usage(drawn: Drawn, answer: Answer) -> Iterator[str]:
    """Usage that does not add up with the account, or falls in the course of a stream."""
    for usage in answer.usages:
        if usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]:
            yield f"total_tokens do not add up: {usage}"
    grows = ["completion_tokens", "total_tokens", "reasoning_tokens"]
    if drawn.keys.get("thinking_in") == "content":
        grows.pop()  # until it is rejected, an attempt may yet be content
    if drawn.body.get("use_beam_search"):
        grows = []  # vLLM tells each choice's own
    for name in grows:
        told = [_count(usage, name) for usage in answer.usages]
        if told != sorted(told):
            yield f"{name} fall in a stream: {told}"
    wants = (drawn.body.get("stream_options") or {}).get("include_usage")
    if answer.streamed and answer.complete and bool(answer.usages) is not bool(wants):
        yield f"{len(answer.usages)} chunks with usage, include_usage {wants}"
    if not answer.usages or not answer.accounts or answer.accounts[0]["thinking_tokens"] is None:
        return
    usage, accounts = answer.usages[-1], answer.accounts
    if usage["completion_tokens"] != sum(total(account) for account in accounts):
        yield f"completion_tokens {usage['completion_tokens']} are not the sum of the accounts"
    reasoning = sum(account["discarded_tokens"] + account["probe_tokens"] for account in accounts)
    settings = (answer.drr or {})["settings"]
    if settings["thinking_in"] == "reasoning":
        reasoning += sum(account["thinking_tokens"] for account in accounts)
    elif settings["rethink"] == "in_context" and settings["accept"] is not None:
        if any("attempt_details" not in account for account in accounts):
            return
        told = [{"settings": settings, **account} for account in accounts]
        earlier = [(account, number) for account in told for number in line(account)[:-1]]
        reasoning += sum(account["attempt_details"][number]["thinking_tokens"] for account, number in earlier)
    if _count(usage, "reasoning_tokens") != reasoning:
        yield f"reasoning_tokens {_count(usage, 'reasoning_tokens')}, by the accounts {reasoning}"
    for name in ("discarded_tokens", "probe_tokens"):
        if _count(usage, name) != sum(account[name] for account in accounts):
            yield f"{name} of usage and accounts differ"


def _count(usage: dict[str, Any], name: str) -> int:
    if name in usage:
        return int(usage[name])
    return int((usage.get("completion_tokens_details") or {}).get(name) or 0)


def wrong_limits(drawn: Drawn, answer: Answer, account: Account) -> Iterator[str]:
    """More tokens than were allowed."""
    if account["thinking_tokens"] is None:
        return
    if any(account[name] < 0 for name in account if name.endswith("_tokens")):
        yield f"a negative count: {account}"
    most = drawn.body.get("max_completion_tokens", drawn.body.get("max_tokens", CONTEXT))
    made = kept(account) + account["discarded_tokens"]
    if made > most:
        yield f"{made} tokens were made of max_tokens {most}"
    if answer.usages and account["attempts"] == 1:
        held = answer.usages[-1]["prompt_tokens"] + kept(account) + account["injected_tokens"]
        if held > CONTEXT:
            yield f"{held} tokens in a context of {CONTEXT}"


def wrong_shown(drawn: Drawn, answer: Answer, choice: Choice, account: Account) -> Iterator[str]:
    """Token ids and log-probabilities that are not those of the tokens shown."""
    if drawn.body.get("include_reasoning") is False:
        if choice.token_ids or choice.entries:
            yield "tokens are shown that include_reasoning hides"
        return
    if not drawn.body.get("return_token_ids") and choice.token_ids:
        yield "token ids that nobody asked for"
    if drawn.body.get("return_token_ids") and account["thinking_tokens"] is not None:
        yield from _wrong_ids(account, len(choice.token_ids))
    if not drawn.body.get("logprobs"):
        if choice.entries:
            yield "log-probabilities that nobody asked for"
        return
    if drawn.body.get("return_token_ids") and len(choice.entries) != len(choice.token_ids):
        yield f"{len(choice.entries)} log-probabilities for {len(choice.token_ids)} tokens"
    tokens = [f"token_id:{token}" for token in choice.token_ids]
    as_ids = drawn.body.get("return_token_ids") and drawn.body.get("return_tokens_as_token_ids")
    if as_ids and [entry["token"] for entry in choice.entries] != tokens:
        yield "log-probabilities of other tokens than are shown"
    most = drawn.body.get("top_logprobs") or 0
    for entry in choice.entries:
        if not -9999 < entry["logprob"] <= 0 or len(entry["top_logprobs"]) > most + 1:
            yield f"a token's log-probability: {entry}"
            break


def wrong_text(drawn: Drawn, choice: Choice, account: Account) -> Iterator[str]:
    """Token ids that spell another text than is shown. Put-in text, cut text and rejected attempts are not told apart
    here: an answer with any of them is left alone."""
    settings, body = account["settings"], drawn.body
    plain = settings["accept"] is None and not account["nudges"] and not body.get("stop") and not choice.tool_calls
    if not choice.token_ids or not plain or settings["thinking_in"] == "content":
        return
    spelt = TOKENIZER.decode(choice.token_ids, skip_special_tokens=True)
    shown = choice.reasoning + (choice.content or "")
    if "\ufffd" not in spelt + shown and spelt != shown and spelt.replace(_CLOSE, "", 1) != shown:
        yield f"the token ids spell {spelt!r}, shown is {shown!r}"


def _wrong_ids(account: Account, shown: int) -> Iterator[str]:
    """Shown are the thinking and the answer, and the thinking of rejected attempts that was shown as it happened (where
    attempts run one after the other, all of them; of those that run at the same time, none). Where thinking is content,
    an attempt that answers after others is shown as it was rejected, and again as it answers."""
    settings, expected = account["settings"], kept(account)
    if settings["accept"] is None:
        if shown != expected:
            yield f"{shown} token ids are shown, thinking and answer are {expected}"
        return
    details = account.get("attempt_details")
    if details is None:
        if shown < expected:
            yield f"{shown} token ids are shown, thinking and answer alone are {expected}"
        return
    rejected = [details[number]["thinking_tokens"] for number in range(len(details)) if number not in line(account)]
    if settings["thinking_in"] == "content":
        rejected += [own["thinking_tokens"] for own in details[:-1] if own["fate"] == "answered"]
    if settings["parallel"] == 1:
        if shown != expected + sum(rejected):
            yield f"{shown} token ids are shown, not {expected} and the rejected {rejected}"
    elif shown - expected not in _sums(rejected):
        yield f"{shown} token ids are shown, not {expected} and any of the rejected {rejected}"


def _sums(numbers: Sequence[int]) -> set[int]:
    subsets = (itertools.combinations(numbers, size) for size in range(len(numbers) + 1))
    return {sum(subset) for subset in itertools.chain.from_iterable(subsets)}


def answering(account: Account) -> int | None:
    """The number of the attempt that answers; None where nobody does, or where that is not told."""
    details = account.get("attempt_details")
    if details is None:
        return 0 if account["settings"]["accept"] is None else None
    standing = [number for number, own in enumerate(details) if own["fate"] in ("accepted", "unjudged", "answered")]
    return standing[0] if len(standing) == 1 else None


def line(account: Account) -> range:
    """The attempts that the answer rests on."""
    number = answering(account)
    if number is None:
        return range(0)
    return range(number + 1) if account["settings"]["rethink"] == "in_context" else range(number, number + 1)


def wrong_attempts(account: Account) -> Iterator[str]:
    """Attempts that do not add up."""
    details, settings = account.get("attempt_details"), account["settings"]
    if details is None or account["thinking_tokens"] is None:
        return
    if account["attempts"] != max(1, len(details)):
        yield f"{account['attempts']} attempts, {len(details)} told of"
    if len(details) > settings["max_rethinks"] + 1:
        yield f"{len(details)} attempts with max_rethinks {settings['max_rethinks']}"
    generated = sum(own["generated_tokens"] for own in details)
    if generated != kept(account) + account["discarded_tokens"]:
        yield f"the attempts generated {generated}, the response {kept(account) + account['discarded_tokens']}"
    if sum(own["discarded_tokens"] for own in details) != account["discarded_tokens"]:
        yield "the attempts' discarded tokens do not add up"
    thought = sum(details[number]["thinking_tokens"] for number in line(account))
    if thought != account["thinking_tokens"]:
        yield f"the answer rests on {thought} thinking tokens, {account['thinking_tokens']} are told of"
    for own in details:
        if own["thinking_tokens"] > own["generated_tokens"] or own["discarded_tokens"] > own["generated_tokens"]:
            yield f"an attempt of more than it generated: {own}"
    yield from _wrong_fates(account, details)


def _wrong_fates(account: Account, details: Sequence[dict[str, Any]]) -> Iterator[str]:
    settings, cause = account["settings"], account["stop_cause"]
    fates = [own["fate"] for own in details]
    standing = [fate for fate in fates if fate in ("accepted", "unjudged", "answered")]
    if len(standing) != (0 if cause == "abstained" else 1):
        yield f"{cause} with attempts {fates}"
    if ("answered" in fates) is not (cause in ("rethink_limit", "rethink_room")):
        yield f"{cause} with attempts {fates}"
    if "abandoned" in fates and settings["parallel"] == 1:
        yield "an attempt was abandoned that ran alone"
    if cause == "rethink_limit" and len(details) != settings["max_rethinks"] + 1:
        yield f"rethink_limit after {len(details)} attempts"
    if cause == "rethink_room" and len(details) > settings["max_rethinks"]:
        yield f"rethink_room after {len(details)} attempts"
    for own in details:
        if own["fate"] in ("rejected", "answered") and not own["p_now"] < settings["accept"] + 5e-5:
            yield f"rejected with p_now {own['p_now']}, accept {settings['accept']}"
        least = min(settings["accept"], 1.0 if settings["threshold"] is None else settings["threshold"])
        if own["fate"] == "accepted" and own["p_now"] < least - 5e-5:  # what would be stopped at is not rejected
            yield f"accepted ({cause}) with p_now {own['p_now']}, accept {settings['accept']}"
    if "answered" in fates and settings["on_exhausted"] == "last" and fates[-1] != "answered":
        yield f"the last attempt did not answer: {fates}"
    if "answered" in fates and settings["on_exhausted"] == "best":
        beliefs = [own["p_now"] for own in details]
        if beliefs[fates.index("answered")] < max(beliefs):
            yield f"the best attempt did not answer: {fates} {beliefs}"
