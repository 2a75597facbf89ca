"""A Reasoner opened for a command through chat completions alone."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from drr.engine.served import served_model
from drr.engine.upstream.chat import ChatAbilities
from drr.engine.upstream.chat_probe import probe_chat
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient
from drr.errors import InputError


@dataclass(frozen=True, slots=True)
class OpenChat:
    """The server's client, what its chat completions allow, and its name of the model."""

    client: UpstreamClient
    abilities: ChatAbilities
    model: str


@contextlib.asynccontextmanager
async def open_chat(url: str, model: str, key: str | None = None) -> AsyncIterator[OpenChat]:
    """The server at `url`; without a `model` the first that it has. InputError where it answers no plain question."""
    name = str(served_model(url, model, key)["id"])
    async with contextlib.aclosing(UpstreamClient(url, key=key)) as client:
        try:
            abilities = await probe_chat(client, name)
        except UpstreamError as error:
            raise InputError("--server", str(error)) from error
        yield OpenChat(client, abilities, name)
