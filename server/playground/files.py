"""The playground's files, and the routes that serve them.

They are read once, when the server starts. Nothing here knows of models or requests.
"""

import hashlib
from importlib.resources import files

from fastapi import Request
from fastapi.responses import Response
from starlette.routing import BaseRoute, Route

ROOT, FOLDER = "/", "/playground/"
_INDEX = "index.html"

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}

_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "img-src", "connect-src")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
    )
)
"""Nothing from elsewhere, nothing inline, and no text that becomes HTML or a program."""

_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time; where it is unchanged, 304 is all that comes
}


def _contents() -> dict[str, bytes]:
    """The files by their names."""
    folder = files(__package__) / "static"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def _path(name: str) -> str:
    return ROOT if name == _INDEX else f"{FOLDER}{name}"


def playground_paths() -> frozenset[str]:
    """Where the page and its files are."""
    return frozenset(_path(name) for name in _contents())


def playground_routes() -> list[BaseRoute]:
    """A route for each of the page's files."""
    return [_route(name, content) for name, content in sorted(_contents().items())]


def _route(name: str, content: bytes) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**_HEADERS, "etag": tag}
    kind = _TYPES[name.rpartition(".")[2]]

    async def serve(request: Request) -> Response:
        """The file, or 304 where the browser has it."""
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return Route(_path(name), serve, methods=["GET"], include_in_schema=False)
