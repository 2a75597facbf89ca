"""A small disk that can be filled and freed again, for a server's log."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FILLER = "filler"
_PIECE = 64 << 10


class SmallDisk:
    """A folder on a disk of its own. `kind` tells what it is: a `tmpfs`, or `/dev/full` where none may be mounted: then
    the disk is full from the beginning to the end, and `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.kind = "/dev/full" if folder is None else "tmpfs"

    @property
    def log(self) -> Path:
        """Where a log is to be written."""
        return Path("/dev/full") if self.folder is None else self.folder / "server.log"

    def fill(self) -> None:
        """Leave no room."""
        if self.folder is not None:
            with contextlib.suppress(OSError), (self.folder / _FILLER).open("wb", buffering=0) as filler:
                while True:
                    if filler.write(b"\0" * _PIECE) < _PIECE:
                        filler.write(b"\0")

    def free(self) -> None:
        """Take away what filled it."""
        if self.folder is not None:
            (self.folder / _FILLER).unlink(missing_ok=True)

    def is_full(self) -> bool:
        if self.folder is None:
            return True
        found = os.statvfs(self.folder)
        return found.f_bfree == 0


@contextlib.contextmanager
def small_disk(mebibytes: int) -> Iterator[SmallDisk]:
    """A tmpfs of this size, where this process may mount one."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", name]
        try:
            mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            mounted = False
        try:
            yield SmallDisk(Path(name) if mounted else None)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", name], check=True)
