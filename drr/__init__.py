"""DRR: reasoning models that think exactly as long as it pays."""

from importlib.metadata import version

__version__ = version("drr")
