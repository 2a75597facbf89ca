"""Record what a server answers to one question, whole and streamed, and show it on the pages.

python -m clients.sample --url http://127.0.0.1:8000/v1    asks a running server, records, writes the pages
python -m clients.sample --report                          writes the pages from the record
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.pages import write_section
from drr.arguments import OneSentenceParser
from drr.failures import guarded
from drr.files import write_whole

RECORD = Path(__file__).parent / "sample_record.json"
README = Path("README.md")
OBJECT_PAGE = Path("docs/drr-object.md")
URL = "http://127.0.0.1:8000/v1"
REQUEST: dict[str, Any] = {
    "model": "drr-reference",
    "messages": [
        {
            "role": "user",
            "content": "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?",
        }
    ],
    "seed": 1,
    "drr": {"max_lost_correct": 0.02},
}

_COMMAND = "python -m clients.sample --report"
_WIDTH = 104
_SHOWN_SETTINGS = ("mode", "max_lost_correct", "threshold", "patience")
_SHOWN_STEPS = 1
_SHOWN_OF_A_STEP = ("index", "p_now", "p_later", "verdict")
_SHOWN_CHUNKS = 3
_PLUMBING = frozenset({"id", "object", "created", "model", "system_fingerprint", "service_tier"})
"""What every chunk has and nobody looks at."""

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Record:
    """A request and what came back: the body and the header `X-DRR-Outcome` of the whole response, and the events of
    the stream, each as JSON (the last one, `[DONE]`, is left out)."""

    request: dict[str, Any]
    response: dict[str, Any]
    outcome_header: str
    chunks: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "Record":
        """The record in a file."""
        return cls(**json.loads(path.read_text()))


def ask(url: str, request: Mapping[str, Any]) -> Record:
    """Ask the server twice, the second time streamed. httpx's errors where it cannot be reached or refuses."""
    address = f"{url}/chat/completions"
    with httpx.Client(timeout=_TIMEOUT_SECONDS) as client:
        whole = client.post(address, json=dict(request)).raise_for_status()
        streamed = client.post(address, json={**request, "stream": True}).raise_for_status()
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return Record(dict(request), whole.json(), whole.headers["x-drr-outcome"], chunks)


def curl_command(request: Mapping[str, Any]) -> str:
    """The request as a command for a shell."""
    body = formatted(request).replace("'", "'\\''")
    return f"curl -s {URL}/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def formatted(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON in which whatever fits a line stands on one; `before` characters stand in front of it already."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or indent + before + len(flat) < _WIDTH:
        return flat
    names = [f"{json.dumps(name)}: " for name in value] if isinstance(value, dict) else [""] * len(value)
    own = value.values() if isinstance(value, dict) else value
    parts = [name + formatted(part, indent + 2, len(name)) for name, part in zip(names, own, strict=True)]
    inner = " " * (indent + 2)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = f",\n{inner}".join(_packed(parts, _WIDTH - indent - 2))
    return f"{opening}\n{inner}{lines}\n{' ' * indent}{closing}"


def _packed(parts: Sequence[str], width: int) -> list[str]:
    """Neighbours that stand on one line each, together on a line as far as they fit."""
    lines = list[str]()
    for part in parts:
        together = f"{lines[-1]}, {part}" if lines else part
        if lines and "\n" not in together and len(together) < width:
            lines[-1] = together
        else:
            lines.append(part)
    return lines


def without_plumbing(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """A response or a chunk without what is the same in all of OpenAI's, and without what is null."""
    kept = {name: value for name, value in chunk.items() if name not in _PLUMBING and value is not None}
    return {name: value if name == "drr" else _without_nulls(value) for name, value in kept.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(own) for own in value]
    if not isinstance(value, dict):
        return value
    kept = {name: own for name, own in value.items() if own is not None and own != []}
    return {name: own if name == "drr" else _without_nulls(own) for name, own in kept.items()}


def shortened(account: Mapping[str, Any]) -> dict[str, Any]:
    """A `drr` object with some of its settings and its last steps; what is left out is counted."""
    short = dict(account)
    if "settings" in short:
        settings = short["settings"]
        short["settings"] = {name: settings[name] for name in _SHOWN_SETTINGS}
        short["settings"]["..."] = f"{len(settings) - len(_SHOWN_SETTINGS)} more"
    if len(short.get("steps", ())) > _SHOWN_STEPS:
        left_out = len(short["steps"]) - _SHOWN_STEPS
        short["steps"] = [{"...": f"{left_out} more steps"}, *short["steps"][-_SHOWN_STEPS:]]
    return short


def short_response(record: Record) -> dict[str, Any]:
    """The response as README shows it."""
    shown = without_plumbing(record.response)
    return {**shown, "drr": shortened(shown["drr"])}


def short_stream(record: Record) -> str:
    """The stream as README shows it: its first chunks, the first step, and its end."""
    lines = list[str]()
    skipped = 0
    told = False
    for index, chunk in enumerate(record.chunks):
        step = "step" in (chunk.get("drr") or {})
        last = index == len(record.chunks) - 1
        if index >= _SHOWN_CHUNKS and not last and (told or not step):
            skipped += 1
            continue
        lines += _gap(skipped)
        skipped, told = 0, told or step
        lines.append(f"data: {json.dumps(_short_chunk(chunk), ensure_ascii=False)}")
    return "\n\n".join([*lines, *_gap(skipped), "data: [DONE]"])


def _gap(skipped: int) -> list[str]:
    return [f"... {skipped} more"] if skipped else []


def _short_chunk(chunk: Mapping[str, Any]) -> dict[str, Any]:
    shown = without_plumbing(chunk)
    account = shown.get("drr") or {}
    if "stop_cause" in account:
        shown["drr"] = {"stop_cause": account["stop_cause"], "...": "as above"}
    if "step" in account:
        shown["drr"] = {"step": {name: account["step"][name] for name in _SHOWN_OF_A_STEP}}
    for choice in shown["choices"]:  # the account stands there, too; once is enough to be shown
        choice["delta"] = {name: own for name, own in choice["delta"].items() if name != "drr" and own != ""}
    return shown


def readme_section(record: Record) -> str:
    """README's sample: the command, the response in short."""
    return f"```sh\n{curl_command(record.request)}\n```\n\n```json\n{formatted(short_response(record))}\n```"


def stream_section(record: Record) -> str:
    """README's sample of a stream."""
    return f"```text\n{short_stream(record)}\n```"


def object_section(record: Record) -> str:
    """The whole `drr` object, its short form in the header, and the chunk of a step."""
    step = next(chunk for chunk in record.chunks if "step" in (chunk.get("drr") or {}))
    return (
        f"```json\n{formatted(record.response['drr'])}\n```\n\n"
        f"The same response's header:\n\n```text\nX-DRR-Outcome: {record.outcome_header}\n```\n\n"
        f"A chunk that tells of a step:\n\n```json\n{formatted(without_plumbing(step))}\n```"
    )


def write_pages(record: Record, readme: Path = README, page: Path = OBJECT_PAGE) -> None:
    """Write the sections of both pages. ValueError where one is missing."""
    write_section(readme, "sample", _COMMAND, readme_section(record))
    write_section(readme, "sample stream", _COMMAND, stream_section(record))
    write_section(page, "sample object", _COMMAND, object_section(record))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = OneSentenceParser(
        prog="clients.sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=URL, help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help="write the pages from the record, ask nobody")
    options = parser.parse_args(argv)
    return guarded("clients.sample", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if not options.report:
        write_whole(RECORD, json.dumps(asdict(ask(options.url, REQUEST)), indent=1, ensure_ascii=False) + "\n")
    write_pages(Record.read(RECORD))


if __name__ == "__main__":
    sys.exit(main())
