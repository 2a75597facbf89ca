"""Engines' processes that end with the process that started them, and do not hear its terminal's Ctrl-C.

An engine that hears it aborts what it is doing, while the server would have let that finish. An engine whose server was
killed would keep its memory for good. Linux only; elsewhere nothing is changed.
"""

import ctypes
import multiprocessing
import os
import signal
import sys

from drr.engine.lasting_streams import outlast_full_disks

_STARTED_BY = "DRR_ENGINES_STARTED_BY"
_PR_SET_PDEATHSIG = 1


def own_engines() -> None:
    """From now on this process owns the engines that it starts."""
    if sys.platform != "linux" or os.environ.get(_STARTED_BY) == str(os.getpid()):
        return
    os.environ[_STARTED_BY] = str(os.getpid())
    os.register_at_fork(after_in_child=_settle)


def settle_if_owned() -> None:
    """To be called in every process of an engine, early: those that were spawned learn here that they are owned."""
    if os.environ.get(_STARTED_BY) == str(os.getppid()):
        _settle()
        outlast_full_disks()


def kill_engines() -> None:
    """End the engines' processes that this one has started, whatever they are doing."""
    for process in multiprocessing.active_children():
        process.kill()


def _settle() -> None:
    """End with the parent, in a process group of its own."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    os.environ[_STARTED_BY] = str(os.getpid())  # an engine's workers are owned by the engine
