"""What `drr serve` is asked for: vLLM's own server flags and DRR's. vLLM is imported only where its own are needed."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from drr import reference
from drr.arguments import OneSentenceParser
from drr.engine.defaults import DEFAULT_ANSWER_CUE, DM_GPU_SHARE, PRM_GPU_SHARE
from drr.engine.devices import NO_COMPILER, cpu_engine_defaults, on_cpu
from drr.engine.starting import cause_of
from drr.errors import InputError
from drr.judge.dm_folder import DmCard
from drr.judge.scorers.registry import ScorerName
from server.contradictions import check_flags
from server.reasoning_key import ReasoningKey
from server.texts import REFUSAL, SEPARATOR
from server.trace_flags import TRACING, check_tracing

PROG = "drr serve"

_VLLM_HELP = """vLLM's flags all pass through. How to see them (this takes some seconds):
  drr serve --help=all            every one
  drr serve --help=ModelConfig    a group: Frontend, ModelConfig, ParallelConfig, CacheConfig, SchedulerConfig, ...
  drr serve --help=max            those with a word in their names
A failure is one sentence; --traceback shows where it comes from.
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.help or ""
        told = "default" in shown or action.default in (None, False) or not str(action.default).strip()
        return shown if told or "\n" in str(action.default) else f"{shown} (default: %(default)s)"


SHUTDOWN_SECONDS = 120
"""What requests under way may take to finish, where --shutdown-timeout does not say."""

PRECISIONS = ("float32", "bfloat16", "float16")

TIERS = ("completions", "prefix", "opaque")
"""How much of the loop an upstream allows, the most first."""


def asks_for_own_help(argv: Sequence[str]) -> bool:
    """Whether DRR's own flags are asked for, and not vLLM's."""
    wanted = {argument.lower() for argument in argv if argument in ("-h", "--help") or argument.startswith("--help=")}
    return bool(wanted) and wanted <= {"-h", "--help", "--help=drr"}


def own_parser() -> OneSentenceParser:
    """A parser of DRR's flags only."""
    parser = OneSentenceParser(
        prog=PROG,
        usage=f"{PROG} [MODEL] [DRR's flags] [vLLM's flags]",
        description="Serve a Reasoner and its DM; without MODEL (or --model) the reference models.",
        epilog=_VLLM_HELP,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    add_flags(parser.add_argument_group("DRR's flags"))
    return parser


def own_help() -> str:
    """DRR's flags, and how to see vLLM's."""
    return own_parser().format_help()


def make_parser() -> Any:
    """vLLM's own server flags and DRR's, on vLLM's FlexibleArgumentParser."""
    from server.vllm_api import FlexibleArgumentParser, make_arg_parser

    class Parser(FlexibleArgumentParser, OneSentenceParser):
        """vLLM's parser, whose complaints are one sentence."""

    parser = make_arg_parser(Parser(prog=PROG, description=__doc__))
    add_flags(parser.add_argument_group("DRR"))
    return parser


def add_flags(group: Any) -> None:
    """DRR's own flags: they start with --dm, --drr or --prm."""
    group.add_argument("--dm", metavar="FOLDER", help="the DM that judges this Reasoner's thinking")
    group.add_argument(
        "--dm-beside",
        action="append",
        metavar="NAME=FOLDER",
        help="another DM, of kind head, that judges where a request's drr.dm names it; may be given several times",
    )
    group.add_argument("--dm-allow-mismatch", action="store_true", help="serve a DM made for another Reasoner")
    group.add_argument("--dm-url", metavar="URL", help="vLLM server that runs the DM's classifier; --dm has its folder")
    group.add_argument("--dm-deadline-ms", type=float, default=1000.0, help="a later verdict counts as: continue")
    group.add_argument(
        "--dm-dtype",
        choices=PRECISIONS,
        help="what a DM's classifier computes in; default: on a GPU 16 bits, as the Reasoner, on a CPU float32",
    )
    group.add_argument("--dm-kv-cache-memory-bytes", type=int, help="KV cache of the DM's engine")
    group.add_argument(
        "--dm-gpu-memory-utilization", type=float, default=DM_GPU_SHARE, help="share of the GPU for the DM"
    )
    group.add_argument("--dm-cpus", metavar="CORES", help="cores for the DM's engine, as in 0-3,8, a thread on each")
    group.add_argument(
        "--dm-nice",
        type=int,
        default=0,
        metavar="STEPS",
        help="how far the DM's engine gives way to others on its cores",
    )
    group.add_argument("--drr-reasoner-cpus", metavar="CORES", help="cores for the Reasoner's engine")
    group.add_argument("--prm", metavar="MODEL", help="a process reward model: folder or Hugging Face id; scorer prm")
    group.add_argument(
        "--prm-gpu-memory-utilization", type=float, default=PRM_GPU_SHARE, help="share of the GPU for it"
    )
    group.add_argument("--drr-mode", choices=("auto", "off", "shadow"), help="mode of requests that name none")
    group.add_argument(
        "--drr-scorer", choices=get_args(ScorerName), help="who judges where a request does not say; default: the DM"
    )
    group.add_argument(
        "--drr-calibration", metavar="FOLDER", help="what drr calibrate --scorer made: certified rules of such scorers"
    )
    group.add_argument(
        "--drr-step-rule", default="blank_line", help="blank_line, line, sentence, marker, tokens:N, attempt"
    )
    group.add_argument(
        "--drr-answer-cue",
        default=DEFAULT_ANSWER_CUE,
        metavar="TEXT",
        help="what makes a Reasoner without thinking markers answer when its chain of thought is stopped",
    )
    group.add_argument(
        "--drr-refusal", default=REFUSAL, metavar="TEXT", help="what is said where the judge believes no attempt"
    )
    group.add_argument(
        "--drr-separator",
        default=SEPARATOR,
        metavar="TEXT",
        help="what is shown between a rejected attempt and the next",
    )
    group.add_argument(
        "--drr-answer-tokens",
        type=int,
        help="tokens kept free for the answer; default: 256, or 64 where an answer cue makes it short",
    )
    group.add_argument("--drr-no-playground", action="store_true", help="no page at /")
    group.add_argument(
        "--drr-effort-map",
        metavar="FILE_OR_JSON",
        help="what reasoning efforts (none, minimal, low, medium, high, xhigh, max) stand for: an object with a drr "
        "object for each that is named; the others keep their meaning",
    )
    group.add_argument(
        "--drr-reasoning-key",
        choices=get_args(ReasoningKey),
        default="reasoning",
        help="the field in which chat completions show reasoning: vLLM's, DeepSeek's, or both",
    )
    group.add_argument(
        "--drr-log-text",
        action="store_true",
        help="let --enable-log-requests log what clients write (with --log-level DEBUG); default: numbers only",
    )
    group.add_argument(
        "--drr-canary-share",
        type=float,
        metavar="SHARE",
        help="of the responses that the judge may stop by its own rule, think so many in full, as 0.02, and count what "
        "stopping would have done to the answer",
    )
    group.add_argument(
        "--drr-shadow-dm",
        action="append",
        metavar="NAME",
        help="a DM of --dm-beside that judges those responses, too, counted by its name; may be given several times",
    )
    _add_upstream_flags(group)
    _add_log_flags(group)
    _add_door_flags(group)


def _add_upstream_flags(group: Any) -> None:
    """A Reasoner that another server runs."""
    group.add_argument(
        "--upstream",
        metavar="URL",
        help="address, up to /v1, of another server that runs the Reasoner; of MODEL only tokenizer, "
        "configuration and chat template are read",
    )
    group.add_argument("--upstream-model", metavar="NAME", help="its name there; default: the only one that is served")
    group.add_argument("--upstream-key-env", metavar="NAME", help="environment variable that holds the upstream's key")
    group.add_argument(
        "--upstream-tier", choices=TIERS, help="what the upstream allows; default: what it is found to allow at start"
    )
    group.add_argument(
        "--upstream-price",
        nargs=3,
        metavar=("INPUT", "CACHED", "OUTPUT"),
        help="dollars per million tokens of prompt, of prompt that was cached, of output; for drr.cost",
    )
    group.add_argument(
        "--upstream-timeout", type=float, default=300.0, metavar="S", help="the longest silence of the upstream"
    )


def _add_log_flags(group: Any) -> None:
    """What is written down of responses."""
    group.add_argument(
        "--drr-decision-log", metavar="FOLDER", help="log what was decided about chat completions, as Parquet files"
    )
    group.add_argument(
        "--drr-decision-log-share", type=float, default=1.0, metavar="S", help="share of the responses, drawn at random"
    )
    group.add_argument(
        "--drr-decision-log-text",
        action="store_true",
        help="log prompt, thinking and answer, too, as drr distill --from-log needs them",
    )
    group.add_argument(
        "--drr-decision-log-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="what a kill may lose: a file is finished so long after its first row at the latest",
    )
    group.add_argument(
        "--drr-decision-log-mb",
        type=float,
        default=16.0,
        metavar="N",
        help="size at which a file is finished before, in memory; on disk it is smaller",
    )
    group.add_argument(
        "--drr-decision-log-total-mb",
        type=float,
        default=1024.0,
        metavar="N",
        help="size of all files, on disk; the oldest are deleted",
    )


def _add_door_flags(group: Any) -> None:
    """Who may use the server, and how much."""
    group.add_argument(
        "--drr-api-keys",
        metavar="FILE",
        help="keys that are taken, a line `name:key` for each, beside --api-key; SIGHUP has it read again",
    )
    group.add_argument("--drr-key-running", type=int, metavar="N", help="requests of one key at once")
    group.add_argument("--drr-key-tokens", type=int, metavar="N", help="tokens of one key a minute, prompts included")
    group.add_argument("--drr-protect-metrics", action="store_true", help="/metrics needs a key, too")
    group.add_argument(
        "--drr-max-running", type=int, metavar="N", help="requests at once; default: vLLM's --max-num-seqs"
    )
    group.add_argument(
        "--drr-max-waiting",
        type=int,
        metavar="N",
        help="requests that wait for their turn, more are answered 429; default: a quarter of those at once",
    )
    group.add_argument(
        "--drr-max-body-bytes",
        type=int,
        metavar="N",
        help="size of a request's body; default: 32 bytes for each token of context, 1 MiB at least, 64 MiB where the "
        "Reasoner sees pictures",
    )
    group.add_argument(
        "--drr-max-branches",
        type=int,
        default=256,
        metavar="N",
        help="sequences that one request may have made: prompts, times n, times attempts",
    )
    group.add_argument(
        "--drr-max-messages",
        type=int,
        default=4096,
        metavar="N",
        help="messages of a conversation, parts of their content included",
    )
    group.add_argument(
        "--drr-request-seconds", type=float, metavar="S", help="what takes longer is ended with 504; default: no limit"
    )
    group.add_argument(
        "--drr-stall-seconds", type=float, default=60.0, metavar="S", help="who does not read for so long is dropped"
    )
    group.add_argument(
        "--drr-shutdown-lead",
        type=float,
        default=0.0,
        metavar="S",
        help="between SIGTERM and the refusal of new requests, while /ready says no",
    )


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The server's arguments. Without --model the reference Reasoner and its DM are served."""
    parser = make_parser()
    own_interval = parser.get_default("stream_interval")
    parser.set_defaults(**cpu_engine_defaults(), model=None, stream_interval=None, shutdown_timeout=SHUTDOWN_SECONDS)
    args = _parsed(parser, argv)
    args.model = args.model or args.model_tag
    if args.model is None and args.upstream is None:
        args.model = str(reference.reasoner_folder())
        args.dm = args.dm or str(reference.dm_folder(reference.SERVED_DM))
        args.served_model_name = args.served_model_name or [reference.MODEL_NAME]
        own_interval = reference.STREAM_INTERVAL
    if args.stream_interval is None:
        args.stream_interval = own_interval
    _check(parser, args)
    _share_memory(parser, args)
    _validate(args)
    return args


def _parsed(parser: Any, argv: Sequence[str]) -> argparse.Namespace:
    """What the parser makes of the arguments, and of a file that they name; InputError where it raises an error."""
    try:
        args: argparse.Namespace = parser.parse_args(list(argv))
    except Exception as error:  # vLLM reads files and JSON here
        raise InputError("vLLM's flags", cause_of(error)) from error
    return args


def usual_options() -> dict[str, Any]:
    """The options of a server that is given none, by their names."""
    parser = make_parser()
    parser.set_defaults(**cpu_engine_defaults())
    usual: dict[str, Any] = vars(parser.parse_args([]))
    return usual


def _validate(args: argparse.Namespace) -> None:
    """vLLM's own checks, which raise errors of several kinds."""
    from server.vllm_api import validate_parsed_serve_args

    try:
        validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        lines = str(error).removeprefix("Error: ").splitlines()
        raise InputError("vLLM's flags", lines[0]) from error


def given_flags(args: argparse.Namespace) -> dict[str, Any]:
    """DRR's flags that differ from their defaults, by their names in the namespace."""
    parser = own_parser()
    return {
        action.dest: getattr(args, action.dest)
        for action in parser._actions
        if getattr(args, action.dest, action.default) != action.default
    }


def _check(parser: Any, args: argparse.Namespace) -> None:
    """Refuse what contradicts itself, and vLLM's options that cannot be honoured here."""
    check_flags(given_flags(args), dm=bool(args.dm))
    check_tracing({name: getattr(args, name) for name in TRACING if getattr(args, name)})
    if args.drr_log_text and not args.enable_log_requests:
        parser.error("--drr-log-text needs --enable-log-requests")
    if (args.api_server_count or 1) != 1 or args.headless or args.data_parallel_multi_port_external_lb:
        parser.error(
            "--api-server-count, --headless and --data-parallel-multi-port-external-lb: drr serve is one API server; "
            "run several behind a load balancer (--data-parallel-external-lb), headless engines with vllm serve"
        )
    if on_cpu() and not args.enforce_eager and os.environ.get(NO_COMPILER) == "1":
        parser.error(f"--no-enforce-eager: on a CPU nothing is compiled unless {NO_COMPILER}=0 is set")
    if args.grpc:
        parser.error("--grpc: drr serves HTTP")


def _share_memory(parser: Any, args: argparse.Namespace) -> None:
    """Take the judges' shares of a GPU out of the Reasoner's, or refuse shares that together are too much."""
    if on_cpu():
        for name in ("dm_gpu_memory_utilization", "prm_gpu_memory_utilization"):
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} has no effect: this machine has no GPU")
        return
    has_classifier = args.dm and not args.dm_url and DmCard.load(Path(args.dm)).kind != "head"
    shares = args.dm_gpu_memory_utilization if has_classifier else 0.0
    shares += args.prm_gpu_memory_utilization if args.prm else 0.0
    if args.gpu_memory_utilization == parser.get_default("gpu_memory_utilization"):
        args.gpu_memory_utilization -= shares
    if args.gpu_memory_utilization <= 0 or args.gpu_memory_utilization + shares > 1:
        parser.error(
            f"--gpu-memory-utilization {args.gpu_memory_utilization:g} beside the judges' {shares:g} "
            "(--dm-gpu-memory-utilization, --prm-gpu-memory-utilization) is not what one GPU has"
        )
