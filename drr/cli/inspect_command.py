"""`drr inspect`: what a DM was trained on, its figures and promises, and whether live traffic still fits them."""

import argparse

import httpx
from rich.console import Console
from rich.markdown import Markdown

from drr.checks import check_url
from drr.errors import InputError
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import DmCard
from drr.judge.drift import DRIFT_LIMIT, LEAST_RESPONSES, stability_index
from drr.learn.dm_card import model_card

FIRST_SCORES_METRIC = "drr_dm_first_scores"
"""The server's counter of attempts by the calibration bin of p_later at their first boundary."""


def run(options: argparse.Namespace) -> None:
    """Print the DM's card and, with `--server`, the drift of that server's scores."""
    if options.server:
        check_url("--server", options.server)
    card = DmCard.load(options.dm)
    console = Console()
    text = model_card(card, options.dm).partition("# ")[2]
    console.print(Markdown("# " + text))
    if options.server:
        _show_drift(card, options.server, console)


def _show_drift(card: DmCard, url: str, console: Console) -> None:
    if card.calibration is None:
        raise InputError("--server", "a DM that is not calibrated has nothing to compare live scores with")
    shares = Calibration.from_json(card.calibration).drift["shares"]
    counts = live_counts(url, len(shares))
    total, index = sum(counts), stability_index(shares, counts)
    figures = f"stability index {index:.3f} over {total:,} live attempts (p_later at their first boundary)"
    if total < LEAST_RESPONSES:
        console.print(f"Drift: too few to tell: {figures}; {LEAST_RESPONSES} are needed", highlight=False)
    elif index > DRIFT_LIMIT:
        console.print(
            f"WARNING: live scores have drifted from those of the calibration: {figures}, limit {DRIFT_LIMIT}. The "
            "certified risks hold for questions like the calibration's: calibrate again on current ones",
            style="bold red",
            highlight=False,
        )
    else:
        console.print(f"Drift: none: {figures}, limit {DRIFT_LIMIT}", highlight=False)


def live_counts(url: str, bins: int) -> list[int]:
    """The counter's value per bin. InputError if the server does not answer or serves a DM with other bins."""
    from prometheus_client.parser import text_string_to_metric_families

    address = url.rstrip("/").removesuffix("/v1") + "/metrics"
    try:
        response = httpx.get(address, timeout=10.0)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise InputError("--server", f"{address} does not answer: {error}") from error
    if FIRST_SCORES_METRIC not in response.text:
        raise InputError("--server", f"{address} has no {FIRST_SCORES_METRIC}: no server of DRR's answers there")
    try:
        families = list(text_string_to_metric_families(response.text))
    except ValueError as error:
        raise InputError("--server", f"{address} does not answer with metrics: {error}") from error
    counts = [0] * bins
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == f"{FIRST_SCORES_METRIC}_total":
            bin_index = int(sample.labels["bin"])
            if bin_index >= bins:
                raise InputError("--server", f"{url} serves a DM with another calibration")
            counts[bin_index] = int(sample.value)
    return counts
