"""Malformed requests as bytes, each decided by a seed and its number alone."""

import base64
import gzip
import json
import random
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tests.fuzz.bodies import draw_path, draw_template, encode, mutate, odd

Expected = Literal["answer", "any", "leaves"]
"""What has to come: an answer; or also a closed connection, or nothing while the server may wait for the rest; or
nothing at all, because the client leaves."""

_ALWAYS_READ = 1 << 20
"""Bytes of a body that every server takes."""

_LARGEST = 12 << 20
"""Bytes of a large body: more than the reference server takes."""


@dataclass(frozen=True)
class Malformed:
    """One request. `content` are the bytes of all of it, sent in pieces of `piece` bytes; `after` are the seconds after
    which a client that leaves does so, with a reset where it is `rude`."""

    number: int
    kind: str
    content: bytes
    expected: Expected = "answer"
    piece: int = 1 << 16
    after: float = 0.0
    rude: bool = False
    method: str = "POST"

    def as_command(self, url: str) -> str:
        """A shell command that sends the same: curl where it is HTTP that curl speaks, else the bytes themselves."""
        head, _, body = self.content.partition(b"\r\n\r\n")
        if self.expected == "answer" and self.kind in ("fields", "text", "kind of content", "method", "header"):
            method, path, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
            named = [line for line in head.decode("latin-1").split("\r\n")[1:] if not line.startswith(_OWN_HEADERS)]
            flags = " ".join(f"-H {shlex.quote(line)}" for line in named)
            data = "" if not body else " --data-binary @-"
            return f"{_said(body)} | curl -sS -X {method} {flags}{data} {shlex.quote(url + path)}"
        host, _, port = url.removeprefix("http://").partition(":")
        return f"{_said(self.content)} | timeout 5 nc {host} {port}"


_OWN_HEADERS = ("content-length:", "host:", "connection:")


def _said(content: bytes) -> str:
    """A shell command that prints these bytes."""
    if len(content) > 20_000:
        return f"# {len(content):,} bytes, drawn by their seed and number"
    if content.isascii() and content.decode("ascii").isprintable():
        return f"printf %s {shlex.quote(content.decode())}"
    return f"echo {base64.b64encode(content).decode()} | base64 -d"


def request(
    path: str, body: bytes, headers: Mapping[str, str] = {}, method: str = "POST", *, close: bool = True
) -> bytes:
    """A request as it should be, with these headers beside the usual ones."""
    usual = {"host": "drr", "content-type": "application/json", "content-length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in {**usual, **headers}.items() if value]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, *(["connection: close"] if close else [])])
    return head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def draw_malformed(seed: int, number: int) -> Malformed:
    """Request `number` of the run that `seed` names."""
    rng = random.Random(f"malformed/{seed}/{number}")
    kind = rng.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    return _KINDS[kind][1](rng, number, kind)


def _fields(rng: random.Random, number: int, kind: str) -> Malformed:
    path = draw_path(rng)
    body = encode(mutate(rng, path, draw_template(rng, path))).encode("utf-8", "surrogatepass")
    # A server need not read all of a body that is too large: the connection may break while it is being sent.
    return Malformed(number, kind, request(path, body), "answer" if len(body) <= _ALWAYS_READ else "any")


def _text(rng: random.Random, number: int, kind: str) -> Malformed:
    """The body's text is damaged, not its meaning."""
    path = draw_path(rng)
    text = json.dumps(draw_template(rng, path))
    place = rng.randrange(len(text))
    body = rng.choice(
        (
            text[:place].encode(),
            (text[:place] + rng.choice('{}[]",:\\\x00\x1f') + text[place:]).encode(),
            (text + rng.choice(("}", "x", "\n\n{}", "\0", ","))).encode(),
            text.replace('"', "'").encode(),
            b"\xef\xbb\xbf" + text.encode(),
            text.encode("utf-16"),
            text.encode("utf-32-be"),
            text.encode()[:place] + bytes(rng.randrange(256) for _ in range(4)) + text.encode()[place:],
            text.replace("What", "Wh\xe4t").encode("latin-1"),
            b"",
            b" " * 2_000,
            b"null",
            b'"text"',
            b"5",
            b"[]",
            b"{}",
            rng.randbytes(200),
            f"/* a */ {text}".encode(),
            encode(odd(rng)).encode("utf-8", "surrogatepass"),
        )
    )
    return Malformed(number, kind, request(path, body))


def _content_kind(rng: random.Random, number: int, kind: str) -> Malformed:
    path = draw_path(rng)
    body = json.dumps(draw_template(rng, path)).encode()
    named = rng.choice(
        (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
            "multipart/form-data",
            "application/xml",
            "application/json; charset=utf-16",
            "application/json; charset=nothing",
            "application/vnd.api+json",
            "application/",
            "/",
            "",
            "a" * 3_000,
            "application/json, text/plain",
        )
    )
    headers = {"content-type": named}
    if rng.random() < 0.2:
        headers, body = {"content-encoding": rng.choice(("gzip", "br", "x"))}, gzip.compress(body)
    return Malformed(number, kind, request(path, body, headers))


def _header(rng: random.Random, number: int, kind: str) -> Malformed:
    path = draw_path(rng)
    body = json.dumps(draw_template(rng, path)).encode()
    nested = rng.choice((20, 986, 20_000))
    name, value = rng.choice(
        (
            ("x-drr", "{"),
            ("x-drr", "[" * nested + "]" * nested),
            ("x-drr", '{"mode": "off", "mode": "auto"}'),
            ("x-drr", '{"threshold": NaN}'),
            ("x-drr", '{"max_steps": ' + "9" * 5_000 + "}"),
            ("x-drr", "\udcff\udcfe"),
            ("x-drr", rng.choice(("null", "5", '"off"', "[]", "{}", "mode=off"))),
            ("x-request-id", rng.choice(("x" * 5_000, "\udcff", "a b", "{}", "../.."))),
            ("x-session-id", "x" * 5_000),
            ("x-data-parallel-rank", rng.choice(("9", "-1", "a", "1e9"))),
            ("authorization", rng.choice(("Bearer", "Bearer ", "Basic =", "\udcff", "x" * 9_000))),
            ("x-api-key", rng.choice(("\udcff", "x" * 9_000))),
            ("accept", rng.choice(("text/event-stream", "nothing", "*/*;q=-5"))),
            ("accept-encoding", "x, gzip;q=a"),
            ("origin", rng.choice(("null", "http://evil", "\udcff"))),
            ("cookie", "a=b; " * 500),
            ("traceparent", rng.choice(("00-zz-zz-01", "x", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"))),
            ("x-forwarded-for", "a, b, c"),
            ("range", "bytes=5-1"),
            ("expect", rng.choice(("100-continue", "nothing"))),
            ("anthropic-version", "x"),
            ("x-prefill-host", "http://127.0.0.1:1"),
        )
    )
    return Malformed(number, kind, request(path, body, {name: value}))


def _method(rng: random.Random, number: int, kind: str) -> Malformed:
    """Another method, another path."""
    method = rng.choice(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "POST", "TRACE", "BREW"))
    paths = (
        *("/", "/v1", "/v1/", "/nothing", "/v1/chat/completions/", "//v1/chat/completions", "/V1/MODELS", "/docs"),
        *("/v1/models/%00", "/v1/models/%ff%fe", "/v1/models/../../etc/passwd", "/v1/models/" + "a" * 5_000),
        *("/v1/responses/none", "/v1/responses/%00/cancel", "/scale_elastic_ep", "/is_scaling_elastic_ep", "/load"),
        *("/ping", "/metrics?name[]=x", "/health?" + "a=b&" * 900, "/v1/models?limit=-1", "/kv_event_sources"),
        *("/openapi.json", "/metrics/../v1/models", "/%2e%2e/%2e%2e", "/v1/audio/transcriptions", "/v1/embeddings"),
    )
    body = rng.choice((b"", b"{}", b"[", b'{"new_data_parallel_size": "a"}', b'{"new_data_parallel_size": -1}'))
    path = rng.choice((*paths, draw_path(rng)))
    return Malformed(number, kind, request(path, body, method=method), method=method)


def _framing(rng: random.Random, number: int, kind: str) -> Malformed:
    """What is no HTTP, or contradicts itself."""
    path = "/v1/chat/completions"
    body = json.dumps(draw_template(rng, path)).encode()
    size = len(body)
    head = f"POST {path} HTTP/1.1\r\nhost: drr\r\ncontent-type: application/json\r\n".encode()
    chunked = b"transfer-encoding: chunked\r\n\r\n"
    content = rng.choice(
        (
            head + f"content-length: {size}\r\ncontent-length: {size + 5}\r\n\r\n".encode() + body,
            head + f"content-length: {size}\r\ntransfer-encoding: chunked\r\n\r\n".encode() + body,
            head
            + rng.choice((b"content-length: -1", b"content-length: a", b"content-length: 1e3"))
            + b"\r\n\r\n"
            + body,
            head + b"content-length: " + b"9" * rng.choice((18, 40, 400)) + b"\r\n\r\n" + body,
            head + b"content-length:" + str(size - 9).encode() + b"\r\n\r\n" + body,
            head + chunked + b"zz\r\n" + body,
            head + chunked + b"-5\r\n" + body + b"\r\n0\r\n\r\n",
            head + chunked + b"f" * rng.choice((16, 40)) + b"\r\n" + body,
            head + chunked + f"{size:x}\r\n".encode() + body + b"0\r\n\r\n",
            head + chunked + f"{size:x};{'a' * 5_000}\r\n".encode() + body + b"\r\n0\r\n\r\n",
            head + chunked + f"{size:x}\r\n".encode() + body + b"\r\n0\r\n" + b"x: y\r\n" * 3_000 + b"\r\n",
            head + b"transfer-encoding: gzip, chunked\r\n\r\n" + body,
            head + b"transfer-encoding: x\r\n\r\n" + body,
            head.replace(b"HTTP/1.1", rng.choice((b"HTTP/9.9", b"HTTP/1.0", b"HTTP", b"HTTPS/1.1", b""))) + b"\r\n",
            head.replace(b"host: drr\r\n", b"") + f"content-length: {size}\r\n\r\n".encode() + body,
            head.replace(b"host:", rng.choice((b"ho st:", b"host", b":", b"ho\0st:", b"\xff:", b" host:"))) + b"\r\n",
            head + b"x: " + b"a" * rng.choice((9_000, 70_000, 400_000)) + b"\r\n\r\n",
            head + b"".join(f"x{each}: y\r\n".encode() for each in range(rng.choice((300, 5_000)))) + b"\r\n",
            head + b"x: a\r\n b\r\n\r\n",
            head + b"x: a\rb\r\n\r\n",
            head.replace(b"\r\n", b"\n") + b"content-length: 0\n\n",
            b"GET " + b"/" + b"a" * rng.choice((9_000, 300_000)) + b" HTTP/1.1\r\nhost: drr\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(40),
            b"\x16\x03\x01" + rng.randbytes(200),
            rng.randbytes(rng.choice((1, 60, 5_000))),
            b"\r\n" * 300,
            b"GET /v1/models\r\n\r\n",
            b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nhost: drr\r\n\r\n",
            b"GET http://other/v1/models HTTP/1.1\r\nhost: drr\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nhost: drr\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nhost: drr\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
            + b"\x81\xff" * 9,
            b"GET /v1/realtime HTTP/1.1\r\nhost: drr\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + rng.randbytes(30),
            request(path, body, close=False) * rng.choice((2, 5)),
            request("/v1/models", b"", method="GET", close=False) * 40 + rng.randbytes(30),
        )
    )
    return Malformed(number, kind, content, "any", piece=rng.choice((1 << 16, 1 << 16, 700)))


def _cut(rng: random.Random, number: int, kind: str) -> Malformed:
    """The connection ends, somewhere in the request or in the answer."""
    path = draw_path(rng)
    body = draw_template(rng, path)
    if "max_tokens" in body:
        body["max_tokens"] = rng.choice((8, 200))
    content = request(path, json.dumps(body).encode())
    if rng.random() < 0.5:
        content = content[: rng.randrange(1, len(content))]
    return Malformed(number, kind, content, "leaves", after=rng.choice((0.0, 0.02, 0.1, 0.3)), rude=rng.random() < 0.5)


def _size(rng: random.Random, number: int, kind: str) -> Malformed:
    """Larger than what is taken, or just large."""
    path = draw_path(rng)
    body = draw_template(rng, path)
    what = rng.choice(("announced", "sent", "keys", "messages", "text", "spaces"))
    if what == "announced":
        size = rng.choice((100 << 20, 1 << 40, 2**62))
        return Malformed(number, kind, request(path, b"{", {"content-length": str(size)}))
    if what == "sent":
        return Malformed(number, kind, request(path, b"x" * _LARGEST), "any")
    if what == "keys":
        body["drr"] = {f"key{each}": each for each in range(30_000)}
    elif what == "messages":
        body["messages"] = [{"role": "user", "content": "a"}] * rng.choice((1_000, 6_000))
    elif what == "text":
        body[rng.choice(("messages", "prompt", "input", "model", "user", "stop"))] = "a b " * 100_000
    text = json.dumps(body)
    return Malformed(number, kind, request(path, (" " * 500_000 + text if what == "spaces" else text).encode()))


_KINDS: Mapping[str, tuple[float, Callable[[random.Random, int, str], Malformed]]] = {
    "fields": (62, _fields),
    "text": (9, _text),
    "kind of content": (3, _content_kind),
    "header": (6, _header),
    "method": (5, _method),
    "framing": (8, _framing),
    "cut": (6, _cut),
    "size": (1, _size),
}
"""How often each kind is drawn, and by what."""
