"""Engine settings that make vLLM start quickly and run safely where there is no GPU.

On a GPU nothing is changed. On a CPU, vLLM's own defaults take nearly all memory for the KV cache, start an extra
process per engine and let engines fight over cores; bf16 kernels can kill the worker outright.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from drr.engine.defaults import DM_GPU_SHARE, PRM_GPU_SHARE
from drr.errors import InputError

# vLLM's CPU attention wants multiples of 32; small blocks keep what a resubmission has to recompute small.
_CPU_BLOCK_SIZE = 32
_MIB = 1 << 20

NO_COMPILER = "TORCH_COMPILE_DISABLE"
"""torch's own variable."""

CPU_KV_CACHE_BYTES = 512 * _MIB
"""KV cache of a Reasoner on a CPU unless --kv-cache-memory-bytes says otherwise."""

CPU_DM_KV_CACHE_BYTES = 256 * _MIB
"""KV cache of a DM on a CPU."""


def on_cpu() -> bool:
    """Whether vLLM will run on the CPU of this machine."""
    import torch  # seconds: not before somebody asks

    return not torch.cuda.is_available()


def prepare_environment(*, quiet: bool = False) -> None:
    """Set what vLLM reads from the environment on a CPU; values that are set already stay. Call before engines.

    `quiet` leaves only vLLM's errors in the log, for commands whose own output matters.
    """
    if quiet:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not on_cpu():
        return
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the worker runs inside the engine's process
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # engines that share cores slow each other down tenfold
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # The one function that vLLM compiles for eager engines counts ranks of log-probabilities: the first judged request
    # would wait seconds for it, and that function cannot be made at all where there is no C++ compiler.
    os.environ.setdefault(NO_COMPILER, "1")
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(
            cache, "64"
        )  # kernels are kept per shape, a thousand of them: engines would grow for hours


def parse_cpus(option: str, text: str) -> frozenset[int]:
    """The cores named by `text`, as in `0-3,8`; InputError names `option` where there are none such."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise InputError(option, f"must name cores as in 0-3,8, not {text!r}")
        cpus.update(range(int(first), int(last or first) + 1))
    missing = cpus - set(range(os.cpu_count() or 1))
    if missing:
        raise InputError(option, f"this machine has no core {min(missing)}")
    return frozenset(cpus)


@contextlib.contextmanager
def engine_on(cpus: frozenset[int] | None) -> Iterator[None]:
    """Engines that are started in this block run on these cores only, a thread on each; None: wherever they like."""
    if cpus is None:
        yield
        return
    allowed, threads = os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    os.sched_setaffinity(0, cpus)
    os.environ["OMP_NUM_THREADS"] = str(len(cpus))
    try:
        yield
    finally:
        # Threads of this process that were begun meanwhile (message queues) must not be left on the engine's cores.
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), allowed)
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


def give_way(engine: Any, nice: int) -> None:
    """Let the processes of a vLLM engine (AsyncLLM) yield to others on their cores, by so many steps of `nice`."""
    for process in engine.engine_core.resources.engine_manager.processes:
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread), nice)


def dm_precision(reasoner: str = "auto") -> str:
    """The data type that a DM's classifier computes in unless told otherwise, given the Reasoner's (vLLM's `--dtype`):
    on a GPU 16 bits, those of the Reasoner where it names them; on a CPU float32, which is as fast there."""
    if on_cpu():
        return "float32"
    return "float16" if reasoner in ("float16", "half") else "bfloat16"


def beside_judges(*, dm: bool = False, prm: bool = False) -> dict[str, Any]:
    """Engine arguments of a Reasoner that shares a GPU with these judges; empty on a CPU."""
    if on_cpu():
        return {}
    return {"gpu_memory_utilization": round(0.9 - (DM_GPU_SHARE if dm else 0.0) - (PRM_GPU_SHARE if prm else 0.0), 2)}


def cpu_engine_defaults(kv_cache_bytes: int = CPU_KV_CACHE_BYTES) -> dict[str, Any]:
    """Engine arguments for a CPU; empty on a GPU."""
    if not on_cpu():
        return {}
    return {
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": _CPU_BLOCK_SIZE,
        # A seeded request whose prefill is cut in chunks kills vLLM 0.32's CPU worker ("CPU Generator does not use
        # offset"): whole prefills only.
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": kv_cache_bytes,
    }
