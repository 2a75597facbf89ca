"""One chat completion as it streams from any OpenAI-compatible server: what comes, and when.

It keeps no conversation and prints nothing. With a server that is not DRR's there are no steps and no account.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import httpx

from drr.errors import first_line

Kind = Literal["reasoning", "content", "refusal", "step", "account", "usage", "finish"]
KINDS: tuple[str, ...] = get_args(Kind)

_TEXTS: Mapping[str, Kind] = {
    "reasoning": "reasoning",
    "reasoning_content": "reasoning",  # as other servers call it
    "content": "content",
    "refusal": "refusal",
}
_CONNECT_SECONDS, _SILENT_SECONDS = 10.0, 300.0
"""To reach the server, and between two pieces of a stream: a model may think long before it says anything."""


class AnswerError(Exception):
    """The server did not answer, or not to the end; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a stream told, `ms` milliseconds after the request was sent. `value` is a text, or the object of a
    step, the account or the usage as it came."""

    ms: float
    kind: Kind
    value: Any


class ChatServer:
    """A server at `url`, which ends in /v1 as SDKs want it. Close it after use."""

    def __init__(self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(_SILENT_SECONDS, connect=_CONNECT_SECONDS)
        self._http = httpx.Client(headers=headers, timeout=timeout, transport=transport)

    def close(self) -> None:
        """Give up its connections."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """The cards of its models. AnswerError where it has none to tell of."""
        with self._said():
            response = self._http.get(f"{self.url}/models")
            _check(response, self.url)
            told = response.json()
        cards = told.get("data") if isinstance(told, dict) else None
        found = [card for card in cards or () if isinstance(card, dict) and isinstance(card.get("id"), str)]
        if not found:
            raise AnswerError(f"{self.url} tells of no model; is it the address of an API, as in http://host:port/v1?")
        return found

    def events(self, body: Mapping[str, Any]) -> Iterator[Event]:
        """The events of a chat completion. AnswerError where it is refused, or breaks off; what came before has been
        given by then."""
        with self._said():
            begun = time.perf_counter()
            with self._http.stream("POST", f"{self.url}/chat/completions", json=dict(body)) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    _check(response, self.url)
                done = False
                for line in response.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    done = done or data == "[DONE]"
                    if not done:
                        yield from _events_of(data, 1000 * (time.perf_counter() - begun))
                if not done:
                    raise AnswerError("the stream broke off before its end")

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """What goes wrong on the way is an AnswerError."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise AnswerError(f"the server at {self.url} said nothing for too long") from error
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise AnswerError("the server broke the connection off") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AnswerError(f"the server at {self.url} cannot be reached: {first_line(error)}") from error
        except ValueError as error:
            raise AnswerError(f"what {self.url} answered is not JSON") from error


def _events_of(data: str, ms: float) -> Iterator[Event]:
    """What one chunk tells, in the order in which it is to be shown."""
    chunk = json.loads(data)
    if "error" in chunk:
        raise AnswerError(f"the server ended the stream: {_message(chunk) or 'it does not say why'}")
    told = chunk.get("drr") or {}
    if "step" in told:
        yield Event(ms, "step", told["step"])
    finish = None
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        for name, kind in _TEXTS.items():
            if isinstance(delta.get(name), str) and delta[name]:
                yield Event(ms, kind, delta[name])
        finish = choice.get("finish_reason") or finish
    if finish:
        yield Event(ms, "finish", finish)
    if "stop_cause" in told:
        yield Event(ms, "account", told)
    if chunk.get("usage"):
        yield Event(ms, "usage", chunk["usage"])


def _check(response: httpx.Response, url: str) -> None:
    """AnswerError says what a status other than 200 means."""
    status = response.status_code
    if status == httpx.codes.OK:
        return
    try:
        said = _message(response.json())
    except ValueError:
        said = ""
    match status:
        case 401 | 403:
            raise AnswerError(f"the server wants a key ({status}); name the variable that holds it with --key-env")
        case 429:
            wait = response.headers.get("retry-after")
            later = f"; come again in {wait} s" if wait else ""
            raise AnswerError(f"the server is busy (429): {said or 'too many requests'}{later}")
        case 404 if not said:
            raise AnswerError(f"nothing is at {url} (404); is it the address of an API, as in http://host:port/v1?")
        case _:
            raise AnswerError(f"the server answered {status}: {said or 'it does not say why'}")


def _message(body: Any) -> str:
    """The message of an error in OpenAI's shape, or in one near to it."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(message.split()) if isinstance(message, str) else ""
