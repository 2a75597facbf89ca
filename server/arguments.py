"""What `drr serve` is asked for: vLLM's own server flags and DRR's."""

import argparse
import os
from collections.abc import Sequence
from typing import get_args

from drr import reference
from drr.engine.devices import DM_GPU_SHARE, NO_COMPILER, PRM_GPU_SHARE, cpu_engine_defaults, on_cpu
from drr.engine.formats import DEFAULT_ANSWER_CUE
from drr.judge.scorers.registry import ScorerName
from server.settings import REFUSAL, SEPARATOR
from server.vllm_api import FlexibleArgumentParser, make_arg_parser, validate_parsed_serve_args


def make_parser() -> FlexibleArgumentParser:
    """vLLM's own server flags and DRR's."""
    parser = make_arg_parser(FlexibleArgumentParser(prog="drr serve", description=__doc__))
    group = parser.add_argument_group("DRR")
    group.add_argument("--dm", metavar="FOLDER", help="the DM that judges this Reasoner's thinking")
    group.add_argument("--dm-allow-mismatch", action="store_true", help="serve a DM made for another Reasoner")
    group.add_argument("--dm-url", metavar="URL", help="vLLM server that runs the DM's classifier; --dm has its folder")
    group.add_argument("--dm-deadline-ms", type=float, default=1000.0, help="a later verdict counts as: continue")
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
    return parser


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The server's arguments. Without --model the reference Reasoner and its DM are served."""
    parser = make_parser()
    own_interval = parser.get_default("stream_interval")
    parser.set_defaults(**cpu_engine_defaults(), model=None, stream_interval=None)
    args: argparse.Namespace = parser.parse_args(list(argv))
    args.model = args.model or args.model_tag
    if args.model is None:
        args.model = str(reference.reasoner_folder())
        args.dm = args.dm or str(reference.dm_folder())
        args.served_model_name = args.served_model_name or [reference.MODEL_NAME]
        own_interval = reference.STREAM_INTERVAL
    if args.stream_interval is None:
        args.stream_interval = own_interval
    _check(parser, args)
    _share_memory(parser, args)
    validate_parsed_serve_args(args)
    return args


def _check(parser: FlexibleArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what contradicts itself, and vLLM's options that cannot be honoured here."""
    if args.drr_mode in ("auto", "shadow") and not args.dm and not args.drr_scorer:
        parser.error(f"--drr-mode {args.drr_mode} needs --dm or --drr-scorer")
    if args.drr_scorer == "dm" and not args.dm:
        parser.error("--drr-scorer dm needs --dm")
    if args.drr_scorer == "prm" and not args.prm:
        parser.error("--drr-scorer prm needs --prm")
    for option in ("dm_url", "dm_cpus"):
        if getattr(args, option) and not args.dm:
            parser.error(f"--{option.replace('_', '-')} needs --dm")
    if args.dm_url and args.dm_cpus:
        parser.error("--dm-cpus: the DM runs at --dm-url, not here")
    if not 0 <= args.dm_nice <= 19:
        parser.error("--dm-nice must be from 0 to 19")
    if args.dm_deadline_ms <= 0 or (args.drr_answer_tokens is not None and args.drr_answer_tokens < 1):
        parser.error("--dm-deadline-ms and --drr-answer-tokens must be positive")
    if (args.api_server_count or 1) != 1 or args.headless or args.data_parallel_multi_port_external_lb:
        parser.error(
            "--api-server-count, --headless and --data-parallel-multi-port-external-lb: drr serve is one API server; "
            "run several behind a load balancer (--data-parallel-external-lb), headless engines with vllm serve"
        )
    if on_cpu() and not args.enforce_eager and os.environ.get(NO_COMPILER) == "1":
        parser.error(f"--no-enforce-eager: on a CPU nothing is compiled unless {NO_COMPILER}=0 is set")
    if args.grpc:
        parser.error("--grpc: drr serves HTTP")


def _share_memory(parser: FlexibleArgumentParser, args: argparse.Namespace) -> None:
    """Take the judges' shares of a GPU out of the Reasoner's, or refuse shares that together are too much."""
    if on_cpu():
        return
    shares = args.dm_gpu_memory_utilization if args.dm and not args.dm_url else 0.0
    shares += args.prm_gpu_memory_utilization if args.prm else 0.0
    if args.gpu_memory_utilization == parser.get_default("gpu_memory_utilization"):
        args.gpu_memory_utilization -= shares
    if args.gpu_memory_utilization <= 0 or args.gpu_memory_utilization + shares > 1:
        parser.error(
            f"--gpu-memory-utilization {args.gpu_memory_utilization:g} beside the judges' {shares:g} "
            "(--dm-gpu-memory-utilization, --prm-gpu-memory-utilization) is not what one GPU has"
        )
