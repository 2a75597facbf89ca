"""What a running server serves, asked without loading anything."""

from typing import Any

import httpx

from drr.errors import InputError

_SECONDS = 10.0


def authorization(key: str | None) -> dict[str, str]:
    """The header that carries a server's key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def served_model(url: str, model: str, key: str | None = None) -> dict[str, Any]:
    """The server's card of `model`, or of its first model where that is empty. InputError where nobody answers at
    `url`, where the key is refused, or where there is no such model."""
    try:
        response = httpx.get(f"{url.rstrip('/')}/models", headers=authorization(key), timeout=_SECONDS)
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise InputError("--api-key-env", f"{url} refuses {'this key' if key else 'requests without a key'}")
        response.raise_for_status()
        cards: list[dict[str, Any]] = response.json()["data"]
        named = {str(card["id"]): card for card in cards}
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, TypeError) as error:
        raise InputError("--server", f"{url} does not answer as an OpenAI-compatible server: {error}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "--server", f"{url} does not answer with JSON: is it the address of the API (.../v1)?"
        ) from error
    if not named:
        raise InputError("--server", f"{url} serves no model")
    if model and model not in named:
        raise InputError("--reasoner", f"{url} serves {', '.join(named)}, not {model}")
    return named[model] if model else next(iter(named.values()))
