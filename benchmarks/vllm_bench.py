"""vLLM's own load generator (`vllm bench serve`), for installations without the `vllm` command, such as its CPU build.

    python -m benchmarks.vllm_bench --base-url http://127.0.0.1:8000 --model drr-reference ...

All of its options pass through.
"""

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args())
