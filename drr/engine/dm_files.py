"""Whether a DM's folder holds everything that its kind needs, told before anything is loaded."""

from pathlib import Path

from drr.engine.model_source import check_model
from drr.errors import InputError
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import STATE_HEAD_NAME, DmCard, load_dm_head
from drr.judge.dm_sums import check_sums
from drr.judge.self_test import SelfTest


def check_dm(folder: Path, option: str) -> DmCard:
    """The card of the DM in `folder`. InputError, which names `option` or the file, for whatever is missing or
    damaged."""
    if not folder.is_dir():
        raise InputError(option, f"there is no folder {folder}")
    card = DmCard.load(folder)
    if card.calibration is not None:
        Calibration.from_json(card.calibration)
    load_dm_head(folder)
    state_head = card.state_head_in(folder)
    if state_head is not None and not state_head.is_file():
        raise InputError(option, f"{folder} is of kind {card.kind} and has no {STATE_HEAD_NAME}")
    if card.kind != "head":
        classifier = card.classifier_in(folder)
        check_model(str(classifier), option)
        if not any(classifier.glob("*.safetensors")) and any(classifier.glob("*.bin")):
            raise InputError(option, f"{classifier} holds its weights as pickles (.bin); save them as safetensors")
    check_sums(folder)
    SelfTest.load(folder)
    return card
