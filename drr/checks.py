"""Checks of what a user hands in, before anything slow is begun. A refusal is an InputError that names the option."""

import math
import os
from pathlib import Path
from urllib.parse import urlsplit

from drr.errors import InputError, without_passwords

LARGEST_SEED = 2**32 - 1
"""The largest that numpy takes."""


def check_range(
    option: str,
    value: float,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """InputError unless `value` is a finite number within the bounds that are given."""
    inside = (
        math.isfinite(value)
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    )
    if not inside:
        raise InputError(option, f"must {_bounds(above, least, below, most)}, not {value:.12g}")


def _bounds(above: float | None, least: float | None, below: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"lie between {least:.12g} and {most:.12g}"
    if above is not None and below is not None:
        return f"lie between {above:.12g} and {below:.12g}"
    words = {"above": above, "at least": least, "below": below, "at most": most}
    return "be " + (" and ".join(f"{word} {bound:.12g}" for word, bound in words.items() if bound is not None))


def check_url(option: str, url: str) -> None:
    """InputError unless `url` is an address of an HTTP server."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, brackets that do not match
        usable = False
    if not usable or any(character.isspace() for character in url):
        shown = without_passwords("".join(url.split()))
        raise InputError(option, f"must be an address as in http://host:port/v1, not {shown!r}")


def check_out_folder(option: str, folder: Path) -> None:
    """InputError unless files can be written into `folder`, which may have to be made."""
    for path in (folder, *folder.parents):
        if path.is_dir():
            if not os.access(path, os.W_OK | os.X_OK):
                raise InputError(option, f"nothing may be written into {path} (permission denied)")
            return
        if path.exists() or path.is_symlink():
            raise InputError(option, f"{path} is a file, not a folder")


def check_file(option: str, path: Path) -> None:
    """InputError unless `path` is a file that can be read."""
    if path.is_dir():
        raise InputError(option, f"{path} is a folder, not a file")
    if not path.exists():
        raise InputError(option, f"there is no file {path}")
    if not os.access(path, os.R_OK):
        raise InputError(option, f"{path} may not be read (permission denied)")
