"""Debian's Chromium, driven by Playwright; tests that need it skip where it is not installed."""

import os
import shutil

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str:
    """Where Chromium is; skips the test where there is none."""
    pytest.importorskip("playwright", reason="the package playwright is not installed")
    found = os.environ.get("DRR_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found


def node() -> str:
    """Where Node is; skips the test where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    return found
