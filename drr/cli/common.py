"""What several commands check."""

import argparse
from pathlib import Path

from drr.errors import InputError
from drr.learn.records import Manifest
from drr.loop.steps import StepRule


def step_rule(options: argparse.Namespace) -> StepRule | None:
    """The step rule that is asked for; None where the default will do."""
    if options.step_rule is None:
        return None
    try:
        return StepRule.parse(options.step_rule)
    except ValueError as error:
        raise InputError("--step-rule", str(error)) from error


def complete_records(folder: Path) -> Manifest:
    """The manifest of behaviour records that are complete; InputError says what is wrong with them."""
    manifest = Manifest.load(folder)
    if not manifest.complete:
        raise InputError(str(folder), "is not complete yet: run drr distill again to finish it")
    return manifest
