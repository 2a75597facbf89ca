"""A DM whose classifier runs on a vLLM server elsewhere, shared by several DRR servers.

That server is plain vLLM on the DM's folder (`vllm serve FOLDER --runner pooling`); card, head and tokenizer are read
here. The classifier's raw logits come from its `/classify`. A server that is away is no death: scores fail until it is
back, and thinking goes on meanwhile.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from transformers import AutoTokenizer

from drr.checks import without_password
from drr.errors import InputError
from drr.judge.dm_folder import DmCard, load_dm_head
from drr.judge.scorers.dm import Classified, DmScorer, Logits

_CONNECT_SECONDS = 5.0


class RemoteClassifier:
    """Asks for logits over HTTP; close it when done. `url` is the server's root, without /v1."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # late scores are given up by their deadline
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def __call__(self, ids: list[int], ends: Sequence[int], cache_salt: str | None = None) -> Classified:
        """The logits at these ends, one request each. httpx.HTTPError where the server does not give them."""
        return Classified(await asyncio.gather(*(self._logits(ids[:end], cache_salt) for end in ends)))

    async def _logits(self, ids: list[int], cache_salt: str | None) -> Logits:
        body = {"input": ids, "use_activation": False, **({} if cache_salt is None else {"cache_salt": cache_salt})}
        response = await self._http.post("/classify", json=body)
        response.raise_for_status()
        data: Any = response.json()
        now, later = data["data"][0]["probs"]
        return now, later

    async def aclose(self) -> None:
        await self._http.aclose()


def remote_dm(card: DmCard, folder: Path, url: str) -> tuple[RemoteClassifier, DmScorer]:
    """The DM in `folder` on the vLLM server at `url`: a classifier that the caller closes, and a scorer on it.

    InputError where that server does not answer, or runs a model whose context is too short.
    """
    limit = _context_of(url)
    if limit < card.max_tokens:
        raise InputError(
            "--dm-url", f"{without_password(url)} reads {limit} tokens at most, the DM was trained on {card.max_tokens}"
        )
    classifier = RemoteClassifier(url)
    tokenizer = AutoTokenizer.from_pretrained(card.classifier_in(folder))
    return classifier, DmScorer(card.id, classifier, tokenizer, load_dm_head(folder), card.max_tokens)


def _context_of(url: str) -> int:
    try:
        listed = httpx.get(f"{url.rstrip('/')}/v1/models", timeout=_CONNECT_SECONDS).raise_for_status().json()
        return int(listed["data"][0]["max_model_len"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        said = without_password(f"{url} does not answer as a vLLM server: {error}")
        raise InputError("--dm-url", said) from error
