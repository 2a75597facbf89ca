"""Engine settings that make vLLM start quickly and run safely where there is no GPU.

On a GPU nothing is changed. On a CPU, vLLM's own defaults take nearly all memory for the KV cache, start an extra
process per engine and let engines fight over cores; bf16 kernels can kill the worker outright.
"""

import os
from typing import Any

import torch

# vLLM's CPU attention wants multiples of 32; small blocks keep what a resubmission has to recompute small.
_CPU_BLOCK_SIZE = 32
_MIB = 1 << 20

CPU_KV_CACHE_BYTES = 512 * _MIB
"""KV cache of a Reasoner on a CPU unless --kv-cache-memory-bytes says otherwise."""

DM_GPU_SHARE, PRM_GPU_SHARE = 0.1, 0.3
"""Of a GPU's memory, for a DM and for a process reward model, unless told otherwise."""

CPU_DM_KV_CACHE_BYTES = 256 * _MIB
"""KV cache of a DM on a CPU."""


def on_cpu() -> bool:
    """Whether vLLM will run on the CPU of this machine."""
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
