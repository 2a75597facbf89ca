"""Print the branch coverage that the last test run measured, package by package, and of every module of the loop.

python scripts/coverage_by_package.py       # reads .coverage; fails where a module of the loop is below 95 %
"""

import io
import json
import sys
from collections import defaultdict
from pathlib import Path

from coverage import Coverage

LOOP = "drr/loop"
LEAST = 95.0


def main() -> int:
    """Print the table; 1 where the loop is covered too little."""
    coverage = Coverage()
    coverage.load()
    report = Path(".coverage.json")
    coverage.json_report(outfile=str(report), ignore_errors=True)
    files = json.loads(report.read_text())["files"]
    report.unlink()
    packages: dict[str, list[dict[str, int]]] = defaultdict(list)
    for name, measured in files.items():
        packages[str(Path(name).parent)].append(measured["summary"])
    out = io.StringIO()
    for package, summaries in sorted(packages.items()):
        print(f"{package:24} {share(summaries):6.1f} %", file=out)
    low = 0
    for name, measured in sorted(files.items()):
        if str(Path(name).parent) == LOOP:
            covered = share([measured["summary"]])
            low += covered < LEAST
            print(f"  {name:32} {covered:6.1f} %{'  (below 95)' if covered < LEAST else ''}", file=out)
    print(out.getvalue(), end="")
    return 1 if low else 0


def share(summaries: list[dict[str, int]]) -> float:
    """Percent of lines and branches that were run."""
    covered = sum(summary["covered_lines"] + summary["covered_branches"] for summary in summaries)
    whole = sum(summary["num_statements"] + summary["num_branches"] for summary in summaries)
    return 100.0 * covered / whole if whole else 100.0


if __name__ == "__main__":
    sys.exit(main())
