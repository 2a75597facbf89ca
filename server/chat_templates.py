"""Chat templates that come with a request: programs of strangers, which only the operator may allow."""

from typing import Any

UNTRUSTED = "templates come with a request only where the server was started with --trust-request-chat-template"
FIELD, KWARGS = "chat_template", "chat_template_kwargs"


def brings_template(template: Any, kwargs: Any) -> str | None:
    """The field of a request that brings one; None where none does."""
    if template is not None:
        return FIELD
    return KWARGS if isinstance(kwargs, dict) and kwargs.get(FIELD) is not None else None
