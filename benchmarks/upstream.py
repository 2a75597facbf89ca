"""What it costs that the Reasoner runs on another server: `drr serve --upstream` beside `drr serve`.

    python -m benchmarks.upstream --out results/upstream
    python -m benchmarks.upstream --size small --part throughput --questions 64
    python -m benchmarks.upstream --direct http://a:8000 --in-process http://b:8000 --proxied http://c:8000 --model NAME

Three servers of the same Reasoner: a plain one, that is the upstream; one in front of it, with a text DM; and one that
runs Reasoner and DM itself. They are started here, on this machine's cores, unless their addresses are given: with the
reference models, or with `--size` with larger ones of random weights (`benchmarks.random_models`), whose every answer
has `--tokens` tokens, is judged every 50 and is never stopped. Measured:

- equality: the same questions at temperature 0, judged, at both judging servers: answers and tokens that were kept;
- throughput: the same questions from `--clients` at once, in turn at both judging servers, as a ratio;
- overhead: streams nobody judges, at the upstream itself and through the proxy: first token and gaps, p50 and p95;
- departures: clients that leave in the middle, and what is then still open at the proxy and at the upstream.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.answers import asked, question
from benchmarks.launch import served
from benchmarks.load_client import Load, Run, Target, drive
from benchmarks.load_report import LatencyGoals, figures
from benchmarks.random_models import PAIRS, make_dm, make_reasoner
from benchmarks.server_processes import metric
from drr import reference
from drr.failures import guarded

_OFF = {"drr": {"mode": "off"}, "temperature": 0}
_JUDGED = {"drr": {"mode": "auto", "scorer": "dm", "threshold": 0.9, "report": "summary"}, "temperature": 0}
_SHADOW = {"drr": {"mode": "shadow", "scorer": "dm", "report": "summary"}, "temperature": 0}
_STEP_RULE = "tokens:50"
_QUANTILES = ("ttft_p50", "ttft_p95", "itl_p50", "itl_p95")
_SECONDS_TO_END = 30.0


@dataclass(frozen=True, slots=True)
class Servers:
    """Roots of the three servers, without /v1, and what they call the model."""

    direct: str
    in_process: str
    proxied: str
    model: str
    judged: dict[str, Any]
    """What a request that is judged asks for."""
    plain: dict[str, Any]
    """What one that nobody judges asks for."""


@contextlib.contextmanager
def models(options: argparse.Namespace) -> Iterator[tuple[list[str], list[str]]]:
    """The flags that name the Reasoner, and those that name its DM."""
    if options.size is None:
        yield (
            ["--model", str(reference.reasoner_folder()), "--served-model-name", reference.MODEL_NAME],
            ["--dm", str(options.dm)],
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        reasoner, dm = Path(folder, "reasoner"), Path(folder, "dm")
        pair = PAIRS[options.size]
        make_reasoner(reasoner, pair.reasoner, pair.dtype)
        make_dm(dm, reasoner, _STEP_RULE, pair.dm)
        yield (
            ["--model", str(reasoner), "--served-model-name", options.size],
            ["--dm", str(dm), "--drr-step-rule", _STEP_RULE],
        )


@contextlib.asynccontextmanager
async def started(options: argparse.Namespace) -> AsyncIterator[Servers]:
    """The servers whose addresses were given, or three of the reference models."""
    if options.direct:
        yield Servers(options.direct, options.in_process, options.proxied, options.model, _JUDGED, _OFF)
        return
    length = {} if options.size is None else {"max_tokens": options.tokens}
    judged = {**(_JUDGED if options.size is None else _SHADOW), **length}
    interval = ["--stream-interval", str(options.stream_interval)]
    async with contextlib.AsyncExitStack() as stack:
        model, dm = stack.enter_context(models(options))
        dm += ["--dm-deadline-ms", "60000"]
        direct = await stack.enter_async_context(served([*model, *interval]))
        proxied = await stack.enter_async_context(served([*model, *dm, *interval, "--upstream", f"{direct}/v1"]))
        own = await stack.enter_async_context(served([*model, *dm, *interval]))
        yield Servers(direct, own, proxied, options.size or reference.MODEL_NAME, judged, {**_OFF, **length})


async def kept(url: str, servers: Servers, questions: int, clients: int) -> list[dict[str, Any]]:
    """What was kept of each judged answer."""
    gate = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http:

        async def one(number: int) -> dict[str, Any]:
            async with gate:
                body = {**asked(number, stream=False, **servers.judged), "model": servers.model}
                answer = (await http.post(f"{url}/v1/chat/completions", json=body)).raise_for_status().json()
            message, account = answer["choices"][0]["message"], answer["drr"]
            counts = {name: account[name] for name in ("thinking_tokens", "answer_tokens", "stop_cause")}
            cost = {"cost": account["cost"]} if "cost" in account else {}
            return {"content": message["content"], "reasoning": message.get("reasoning"), **counts, **cost}

        return list(await asyncio.gather(*map(one, range(questions))))


async def equality(servers: Servers, questions: int, clients: int) -> dict[str, Any]:
    """How many of the same questions were answered alike, text for text and token for token."""
    own = await kept(servers.in_process, servers, questions, clients)
    through = await kept(servers.proxied, servers, questions, clients)
    costs = [answer.pop("cost") for answer in through if "cost" in answer]
    differ = [number for number, pair in enumerate(zip(own, through, strict=True)) if pair[0] != pair[1]]
    return {
        "questions": questions,
        "clients": clients,
        "alike": questions - len(differ),
        "differ": differ[:20],
        "stopped": sum(answer["stop_cause"] == "sure" for answer in through),
        "requests_each": sum(cost["requests"] for cost in costs) / max(1, len(costs)),
        "prompt_tokens_sent_each": sum(cost["prompt_tokens_sent"] for cost in costs) / max(1, len(costs)),
    }


def _prompts(requests: int) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": question(number)}]} for number in range(requests)]


async def _figures(target: Target, requests: int, clients: int) -> dict[str, float]:
    run: Run = await drive(target, _prompts(requests), Load(clients=clients))
    return figures(run, LatencyGoals())


async def throughput(servers: Servers, requests: int, clients: int, pairs: int) -> dict[str, Any]:
    """Tokens per second of the judging servers, in turn, and their ratio."""
    targets = [
        Target(name, url, servers.model, servers.judged)
        for name, url in (("in_process", servers.in_process), ("proxied", servers.proxied))
    ]
    for target in targets:
        await _figures(target, clients, clients)  # what is done for the first time is not measured
    each: dict[str, list[float]] = {target.name: [] for target in targets}
    for pair in range(pairs):
        for target in targets if pair % 2 == 0 else targets[::-1]:
            each[target.name].append((await _figures(target, requests, clients))["requests_per_second"])
    found = [there / here for here, there in zip(each["in_process"], each["proxied"], strict=True)]
    return {"clients": clients, "requests": requests, "requests_per_second": each, "ratios": found}


async def overhead(servers: Servers, clients: int, requests: int) -> dict[str, Any]:
    """Milliseconds to the first token and between chunks, at the upstream and through the proxy."""
    found: dict[str, Any] = {"clients": clients, "requests": requests}
    for name, url in (("direct", servers.direct), ("proxied", servers.proxied)):
        apart = {"cache_salt": f"{name} {clients}"}  # who comes second finds no prompt in the engine's cache
        target = Target(name, url, servers.model, {**servers.plain, **apart})
        await _figures(target, min(clients, 4), clients)
        measured = await _figures(target, requests, clients)
        found[name] = {quantile: 1000 * measured[quantile] for quantile in _QUANTILES}
        found[name] |= {"failed": measured["failed"], "tokens_per_second": measured["tokens_per_second"]}
    found["added"] = {quantile: found["proxied"][quantile] - found["direct"][quantile] for quantile in _QUANTILES}
    return found


async def departures(servers: Servers, clients: int, at_once: int, seed: int = 0) -> dict[str, Any]:
    """Clients that leave at any moment; then what is open, once that has had time to end."""
    draw, gate = random.Random(seed), asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as http:

        async def leave(number: int, patience: float) -> None:
            body = {**asked(number, stream=number % 2 == 0, **servers.judged), "model": servers.model}
            async with gate:
                with contextlib.suppress(TimeoutError, httpx.HTTPError):
                    async with asyncio.timeout(patience):
                        await http.post(f"{servers.proxied}/v1/chat/completions", json=body)

        await asyncio.gather(*(leave(number, draw.uniform(0.0, 1.0)) for number in range(clients)))
        for _ in range(int(_SECONDS_TO_END)):
            left = {
                "proxy": metric((await http.get(f"{servers.proxied}/metrics")).text, "drr_upstream_open"),
                "upstream": metric((await http.get(f"{servers.direct}/metrics")).text, "vllm:num_requests_running"),
            }
            if not any(left.values()):
                break
            await asyncio.sleep(1)
    return {"clients": clients, "left_open": left}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it, or the parts that were asked for."""
    found: dict[str, Any] = {"stream_interval": options.stream_interval, "size": options.size}
    async with started(options) as servers:
        if "equality" in options.part:
            found["equality"] = await equality(servers, options.questions, options.clients[-1])
            _tell("equality", found["equality"])
        if "throughput" in options.part:
            found["throughput"] = await throughput(servers, options.questions, options.at_once, options.pairs)
            _tell("throughput", found["throughput"])
        if "overhead" in options.part:
            found["overhead"] = []
            for clients in options.clients:
                found["overhead"].append(await overhead(servers, clients, max(4 * clients, options.questions // 4)))
                _tell("overhead", found["overhead"][-1])
        if "departures" in options.part:
            found["departures"] = await departures(servers, options.departures, options.at_once)
            _tell("departures", found["departures"])
    return found


def _tell(part: str, found: dict[str, Any]) -> None:
    sys.stdout.write(f"{part}: {json.dumps(found)}\n")
    sys.stdout.flush()


_PARTS = ("equality", "throughput", "overhead", "departures")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; exits where they contradict each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", metavar="URL", help="the upstream; with it the next three")
    parser.add_argument("--in-process", metavar="URL", help="a judging server that runs its Reasoner itself")
    parser.add_argument("--proxied", metavar="URL", help="a judging server in front of the upstream")
    parser.add_argument("--model", metavar="NAME", help="what all of them call it")
    parser.add_argument("--size", choices=list(PAIRS), help="of random models in place of the reference models")
    parser.add_argument("--tokens", type=int, help="of every answer of a random Reasoner (default 250)")
    parser.add_argument("--dm", type=Path, help="a text DM of the reference model (default: the reference DM)")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64], help="of the overhead")
    parser.add_argument("--at-once", type=int, default=16, help="clients of the throughput")
    parser.add_argument("--pairs", type=int, default=3, help="of throughput runs")
    parser.add_argument("--departures", type=int, default=500)
    parser.add_argument("--stream-interval", type=int, default=1, metavar="TOKENS", help="of all servers")
    parser.add_argument("--part", choices=_PARTS, action="append", help="repeatable (default: all)")
    parser.add_argument("--out", type=Path, help="folder for the figures, as results.json")
    options = parser.parse_args(argv)
    options.part = options.part or list(_PARTS)
    addresses = [options.direct, options.in_process, options.proxied, options.model]
    if options.direct and options.size:
        parser.error("--size is about servers that are started here")
    if options.size and options.dm:
        parser.error("--dm is not for a Reasoner of random weights, whose DM is made with it")
    if options.tokens and not options.size:
        parser.error("--tokens is about a Reasoner of random weights, which --size asks for")
    options.dm, options.tokens = options.dm or reference.dm_folder(), options.tokens or 250
    if any(addresses) and not all(addresses):
        parser.error("--direct, --in-process, --proxied and --model come together")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(argv)
    found = asyncio.run(measure(options))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.upstream", main))
