"""The clients' drivers, one after the other, against one server."""

import json
import subprocess
from dataclasses import asdict

from clients.real.drivers.common import Job, Variant
from clients.real.environment import Client, Environment
from clients.real.results import Result, from_json

QUESTIONS = [
    ("Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?", "36"),
    ("Ann has 20 pens. She loses 6 of them. How many pens does Ann have now?", "14"),
    ("Ben has 7 books. He buys 2 boxes of 5 books each. How many books does Ben have now?", "17"),
]
MAX_TOKENS = 512
ABSTAIN = "abstain"
_REJECT_ALL = {"mode": "rethink", "max_rethinks": 0, "accept": 1.0, "on_exhausted": "abstain"}
SERVE = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
"""The reference Reasoner knows no JSON: where a grammar allows blanks, it writes nothing else."""

_SECONDS = 900


def variants(model: str) -> list[Variant]:
    """The ways to ask: without DRR's options, by name, with an object, with a header that goes out with everything."""
    return [
        Variant("plain", model),
        Variant(":drr", f"{model}:drr"),
        Variant(":full", f"{model}:full"),
        Variant("object", model, drr={"threshold": 0.9}),
        Variant("header", model, headers={"X-DRR": '{"max_lost_correct": 0.05}'}),
        Variant(ABSTAIN, model, drr=_REJECT_ALL, refuses=True),
    ]


def run(client: Client, environment: Environment, root: str, model: str) -> list[Result]:
    """What a client sees of the server at `root`. A driver that dies is a result, too."""
    work = environment.work(client)
    job_file, out_file = work / "job.json", work / "seen.json"
    job = Job(root, QUESTIONS, variants(model), MAX_TOKENS, str(work))
    job_file.write_text(json.dumps(asdict(job)))
    out_file.unlink(missing_ok=True)
    command = [*environment.command(client), str(job_file), str(out_file)]
    try:
        done = subprocess.run(
            command,
            cwd=environment.cwd(client),
            env=environment.variables(client),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        said = done.stderr.strip().splitlines()
        error = said[-1] if said else f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        error = f"not done after {_SECONDS} s"
    if out_file.exists():
        return from_json(json.loads(out_file.read_text()))
    return [Result(client.name, "", "start", "plain", error=error)]
