"""What a `reasoning_effort` means, as presets of the `drr` object, and how a request takes one.

The word comes from chat completions' `reasoning_effort`, Responses' `reasoning.effort`, or Messages'
`output_config.effort`. `--drr-effort-map` gives presets of the server's own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drr.checks import check_file
from drr.errors import InputError
from server.keys import EFFORTS, Mode
from server.resolve import resolve
from server.schema import DrrError, DrrRequest
from server.settings import Defaults

EFFORT_FLAG = "--drr-effort-map"

_UNSTEERED = frozenset({"dm", "report", "thinking_in", "max_thinking_tokens", "answer_tokens", "max_steps"})
"""Keys that say nothing about how sure a judge has to be: beside others a preset has no say."""

_JUDGES_NOTHING = frozenset({"mode", "max_thinking_tokens", "answer_tokens", "max_steps", "report", "thinking_in"})


class Efforts:
    """The presets of a server, by the word that asks for each."""

    def __init__(self, presets: Mapping[str, Mapping[str, Any]] = EFFORTS) -> None:
        self._presets = presets

    def joined(
        self, asked: DrrRequest | None, effort: str | None, defaults: Defaults, forced_mode: Mode | None
    ) -> DrrRequest | None:
        """The request with what its effort means, where it does not say so itself. A preset is no reason to judge on a
        server that does not judge by itself, and one that names a risk is for a calibrated judge. DrrError where there
        is nothing to judge for a DM that the request names."""
        preset = self._presets.get(effort or "")
        given = asked.given() if asked is not None else set[str]()
        if not preset or not given <= _UNSTEERED:
            return asked
        chosen = {name: value for name, value in preset.items() if name not in given}
        if "dm" in given and chosen.get("max_thinking_tokens") == 0:
            raise DrrError("drr.dm", f"has no effect: effort {effort} leaves nothing to judge")
        if forced_mode is not None or "dm" in given:  # somebody has said who is to judge
            chosen.pop("mode", None)
        if not defaults.can_stop:
            chosen.pop("max_thinking_tokens", None)
        if not _judges_nothing(preset) and not self._judged(asked, preset, defaults, forced_mode):
            return asked
        return DrrRequest.model_validate({**(asked.model_dump(exclude_none=True) if asked else {}), **chosen})

    @staticmethod
    def _judged(
        asked: DrrRequest | None, preset: Mapping[str, Any], defaults: Defaults, forced_mode: Mode | None
    ) -> bool:
        """Whether there is a judge for this preset, and something to judge."""
        if defaults.mode != "auto" or forced_mode == "off":
            return False
        if asked is not None and asked.max_thinking_tokens == 0:
            return False
        if "max_lost_correct" not in preset:
            return defaults.rule is not None or (asked is not None and asked.dm is not None)
        if asked is not None and asked.dm is not None:
            named = defaults.beside.get(asked.dm)
            return named is not None and named.calibration is not None
        return defaults.scorer == "dm" and defaults.calibration is not None

    def check(self, defaults: Defaults) -> None:
        """InputError for a preset of the operator's that no request of this server could make."""
        for name, preset in self._presets.items():
            if preset and preset is not EFFORTS.get(name):
                try:
                    resolve(DrrRequest.model_validate(preset), defaults)
                except DrrError as error:
                    key = error.param.removeprefix("drr.")
                    raise InputError(EFFORT_FLAG, f"{name}.{key}: {error.why}") from error


def _judges_nothing(preset: Mapping[str, Any]) -> bool:
    return preset.keys() <= _JUDGES_NOTHING and preset.get("mode", "off") == "off"


def read_efforts(given: str | None) -> Efforts:
    """The presets of `--drr-effort-map`, which is JSON or the name of a file that holds it, beside the usual ones for
    efforts that it does not name. InputError where it is neither, or names an effort or a key that does not exist."""
    if given is None:
        return Efforts()
    text = given
    if not given.lstrip().startswith("{"):
        check_file(EFFORT_FLAG, Path(given))
        text = Path(given).read_text(encoding="utf-8", errors="replace")
    try:
        presets = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(EFFORT_FLAG, f"is not JSON: {error}") from error
    if not isinstance(presets, dict):
        raise InputError(EFFORT_FLAG, "must be an object: an effort's name, and the drr object that it stands for")
    for name, preset in presets.items():
        if name not in EFFORTS:
            raise InputError(EFFORT_FLAG, f"{name[:80]!r} is no effort; there are: {', '.join(EFFORTS)}")
        try:
            DrrRequest.parse(preset, name)
        except DrrError as error:
            raise InputError(EFFORT_FLAG, str(error)) from error
    return Efforts({**EFFORTS, **presets})


def markdown_table(presets: Mapping[str, Mapping[str, Any]] = EFFORTS) -> str:
    """The table of the presets."""
    rows = ["| effort | stands for |", "| --- | --- |"]
    for name, preset in presets.items():
        rows.append(f"| `{name}` | {f'`{json.dumps(preset)}`' if preset else 'the server’s defaults'} |")
    return "\n".join(rows)
