"""A DM whose classifier runs on a vLLM server elsewhere, shared by several DRR servers.

That server is plain vLLM on the DM's folder (`vllm serve FOLDER --runner pooling`); card, head and tokenizer are read
here. The classifier's raw logits come from its `/classify`. A server that is away is no death: scores fail until it is
back, and thinking goes on meanwhile.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from transformers import AutoTokenizer

from drr.engine.connections import Connections, credentials
from drr.errors import InputError, first_line
from drr.judge.dm_folder import DmCard, load_dm_head
from drr.judge.scorers.dm import Classified, DmScorer, Logits

_CONNECT_SECONDS = 5.0


class RemoteClassifier:
    """Asks for logits over HTTP; close it when done. `url` is the server's root, without /v1."""

    def __init__(self, url: str) -> None:
        self.connections = Connections(
            base_url=_address(url),
            auth=credentials(url),
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # late scores are given up by their deadline
        )

    async def __call__(self, ids: list[int], ends: Sequence[int], cache_salt: str | None = None) -> Classified:
        """The logits at these ends, one request each. httpx.HTTPError where the server does not give them."""
        return Classified(await asyncio.gather(*(self._logits(ids[:end], cache_salt) for end in ends)))

    async def _logits(self, ids: list[int], cache_salt: str | None) -> Logits:
        body = {"input": ids, "use_activation": False, **({} if cache_salt is None else {"cache_salt": cache_salt})}
        async with self.connections.one() as http:
            response = await http.post("/classify", json=body)
        response.raise_for_status()
        data: Any = response.json()
        now, later = data["data"][0]["probs"]
        return now, later

    async def aclose(self) -> None:
        await self.connections.aclose()


def remote_dm(card: DmCard, folder: Path, url: str) -> tuple[RemoteClassifier, DmScorer]:
    """The DM in `folder` on the vLLM server at `url`: a classifier that the caller closes, and a scorer on it.
    InputError as for `check_remote`."""
    check_remote(card, url)
    classifier = RemoteClassifier(url)
    tokenizer = AutoTokenizer.from_pretrained(card.classifier_in(folder))
    return classifier, DmScorer(card.id, classifier, tokenizer, load_dm_head(folder), card.max_tokens)


def check_remote(card: DmCard, url: str) -> None:
    """InputError where the server at `url` does not answer, or runs a model whose context is too short for this DM."""
    limit = _context_of(url)
    if limit < card.max_tokens:
        reason = f"{_address(url)} reads {limit} tokens at most, the DM was trained on {card.max_tokens}"
        raise InputError("--dm-url", reason)


def _context_of(url: str) -> int:
    try:
        asked = httpx.get(f"{_address(url)}/v1/models", auth=credentials(url), timeout=_CONNECT_SECONDS)
        listed = asked.raise_for_status().json()
        return int(listed["data"][0]["max_model_len"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"{_address(url)} does not answer as a vLLM server: {first_line(error)}"
        raise InputError("--dm-url", reason) from error


def _address(url: str) -> str:
    """Where the server is, without who asks: errors and logs repeat it."""
    parts = urlsplit(url.rstrip("/"))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
