"""DM folders of every kind, made for tests: random fusion heads, the reference DM's classifier, no real state head."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drr import reference
from drr.judge.dm_folder import CARD_NAME, HEAD_NAME, STATE_HEAD_NAME, DmCard
from drr.judge.dm_sums import write_sums
from drr.judge.head import Kind, save_head
from tests.judge.test_head import head_of


def make_dm(folder: Path, kind: Kind, **changes: Any) -> Path:
    """A DM of this kind in `folder`, as the reference DM but for `changes` of its card."""
    if kind == "head":
        folder.mkdir()
    else:
        shutil.copytree(reference.dm_folder(), folder)
    card = {**asdict(DmCard.load(reference.dm_folder())), "kind": kind, **changes}
    (folder / CARD_NAME).write_text(json.dumps(card))
    save_head(head_of(kind), folder / HEAD_NAME)
    if kind != "text":
        (folder / STATE_HEAD_NAME).write_bytes((2).to_bytes(8, "little") + b"{}")
    write_sums(folder)
    return folder
