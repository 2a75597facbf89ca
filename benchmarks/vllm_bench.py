"""vLLM's own load generator (`vllm bench serve`), for installations without the `vllm` command, such as its CPU build.

    python -m benchmarks.vllm_bench --base-url http://127.0.0.1:8000 --model drr-reference ...

All of its options pass through.
"""

import sys

import httpx
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

from drr.engine.model_source import TOKENIZER_FILES, check_model
from drr.engine.starting import cause_of
from drr.errors import InputError
from drr.failures import guarded


def run() -> None:
    """Load the server; InputError where vLLM's generator has no use for what it was given."""
    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    options = parser.parse_args()
    httpx.get(options.base_url or f"http://{options.host}:{options.port}", timeout=10.0)  # whatever it answers
    tokenizer = options.tokenizer or options.model
    if tokenizer is not None:
        check_model(tokenizer, "--tokenizer", TOKENIZER_FILES)
    try:
        main(options)
    except ValueError as error:
        raise InputError("vllm bench serve", cause_of(error)) from error


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.vllm_bench", run))
