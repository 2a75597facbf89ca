"""`--dm` and `--dm-beside`: what cannot be served is said in one sentence, before vLLM is imported and after a --config
file."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drr import reference
from drr.errors import InputError
from drr.judge.dm_folder import CARD_NAME, HEAD_NAME, STATE_HEAD_NAME, DmCard, fingerprint
from drr.judge.dm_sums import write_sums
from drr.judge.scorers.dm import DmScorer
from drr.judge.scorers.state import StateScorer
from drr.judge.self_test import SELF_TEST_NAME
from drr.loop.steps import StepRule
from server import arguments, judges
from server.arguments import own_parser, parse_args
from server.contradictions import NOT_REMOTE, flag
from server.dm_flags import DmFolder
from server.early import check_early
from server.errors import StartupError
from server.judges import Dm, check_downloaded, read_dms, start_judge, warm_up
from tests.head_dms import make_dm

DM, MODEL = str(reference.dm_folder()), str(reference.reasoner_folder())
RULE = StepRule.parse(DmCard.load(reference.dm_folder()).step_rule)


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return make_dm(tmp_path / "head", "head")


def early(*argv: str) -> str:
    with pytest.raises(InputError) as error:
        check_early(["--model", MODEL, "--port", "0", *argv])
    return str(error.value)


def late(*argv: str) -> str:
    """What a server says that found the same in a --config file, where nothing is checked early."""
    args = own_parser().parse_args(list(argv))
    args.model = MODEL
    with pytest.raises(InputError) as error:
        _check_late(args)
    return str(error.value)


def _check_late(args: argparse.Namespace) -> None:
    arguments.check_flags(arguments.given_flags(args), dm=bool(args.dm))
    read_dms(args, RULE)


@pytest.mark.parametrize("said", [early, late])
@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--drr-canary-share", "0.1"], "--drr-canary-share: needs --dm or --drr-scorer"),
        (["--dm", DM, "--drr-canary-share", "0"], "--drr-canary-share: must be above 0 and at most 1, not 0"),
        (["--dm", DM, "--drr-canary-share", "2"], "--drr-canary-share: must be above 0 and at most 1, not 2"),
        (["--dm", DM, "--drr-canary-share", "nan"], "--drr-canary-share: must be above 0 and at most 1, not nan"),
        (
            ["--dm", DM, "--drr-mode", "off", "--drr-canary-share", "0.1"],
            "--drr-canary-share: has no effect: with --drr-mode off only requests that ask for it are judged",
        ),
        (["--dm", DM, "--dm-beside", "a={head}", "--drr-shadow-dm", "a"], "--drr-shadow-dm: needs --drr-canary-share"),
        (
            ["--dm", DM, "--drr-canary-share", "0.1", "--drr-shadow-dm", "a"],
            "--drr-shadow-dm: must name DMs of --dm-beside (none), each once, not 'a'",
        ),
        (
            [
                *("--dm", DM, "--dm-beside", "a={head}", "--drr-canary-share", "0.1"),
                *("--drr-shadow-dm", "a", "--drr-shadow-dm", "b"),
            ],
            "--drr-shadow-dm: must name DMs of --dm-beside (a), each once, not 'b'",
        ),
        (
            [
                *("--dm", DM, "--dm-beside", "a={head}", "--drr-canary-share", "0.1"),
                *("--drr-shadow-dm", "a", "--drr-shadow-dm", "a"),
            ],
            "--drr-shadow-dm: must name DMs of --dm-beside (a), each once, not 'a'",
        ),
    ],
)
def test_canaries_that_would_tell_nothing_are_refused(
    said: Callable[..., str], flags: list[str], complaint: str, head: Path
) -> None:
    assert said(*(flag.format(head=head) for flag in flags)) == complaint


@pytest.mark.parametrize("said", [early, late])
@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        (["nothing"], "must be NAME=FOLDER, each name once, not 'nothing'"),
        (["=folder"], "must be NAME=FOLDER, each name once, not '=folder'"),
        (["  =folder"], "must be NAME=FOLDER, each name once, not '  =folder'"),
        (["a="], "must be NAME=FOLDER, each name once, not 'a='"),
        ([""], "must be NAME=FOLDER, each name once, not ''"),
        (["a={head}", "a={head}"], "must be NAME=FOLDER, each name once, not 'a={head}'"),
        (["a=/nope"], "there is no folder /nope"),
        (["a={head}", "b=/nope"], "there is no folder /nope"),
        ([f"a={DM}"], f"{DM} is of kind text: it must be a head"),
    ],
)
def test_what_dm_beside_cannot_be_is_named(
    said: Callable[..., str], entries: list[str], complaint: str, head: Path
) -> None:
    argv = [part for entry in entries for part in ("--dm-beside", entry.format(head=head))]
    assert said("--dm", DM, *argv) == f"--dm-beside: {complaint.format(head=head)}"


@pytest.mark.parametrize("said", [early, late])
def test_dm_beside_needs_a_dm(said: Callable[..., str], head: Path) -> None:
    assert said("--dm-beside", f"a={head}") == "--dm-beside: needs --dm"


def test_without_a_model_the_reference_dm_is_what_others_stand_beside(head: Path) -> None:
    check_early(["--port", "0", "--dm-beside", f"a={head}"])


@pytest.mark.parametrize("said", [early, late])
@pytest.mark.parametrize("option", ["--dm", "--dm-beside"])
def test_a_damaged_head_is_named(said: Callable[..., str], option: str, tmp_path: Path) -> None:
    def tried(folder: Path) -> str:
        return said(*(["--dm", str(folder)] if option == "--dm" else ["--dm", DM, "--dm-beside", f"a={folder}"]))

    empty = tmp_path / "empty"
    empty.mkdir()
    assert tried(empty) == f"{empty}: is no DM: it has no drr.json"
    lost = make_dm(tmp_path / "lost", "head")
    (lost / STATE_HEAD_NAME).unlink()
    assert tried(lost) == f"{option}: {lost} is of kind head and has no {STATE_HEAD_NAME}"
    broken = make_dm(tmp_path / "broken", "head")
    (broken / HEAD_NAME).write_text("{")
    assert HEAD_NAME in tried(broken)
    other = make_dm(tmp_path / "other", "head")
    card = json.loads((other / CARD_NAME).read_text())
    (other / CARD_NAME).write_text(json.dumps({**card, "kind": "text"}))
    assert "is of a DM of kind head, drr.json says text" in tried(other)
    (other / CARD_NAME).write_text(json.dumps({**card, "kind": "ear"}))
    assert "must be text, head, fused, not ear" in tried(other)
    (other / CARD_NAME).write_text(json.dumps({**card, "calibration": {"confidence": 1}}))
    assert "calibration" in tried(other)


@pytest.mark.parametrize("said", [early, late])
def test_a_fused_dm_needs_both_of_its_parts(said: Callable[..., str], tmp_path: Path) -> None:
    fused = make_dm(tmp_path / "fused", "fused")
    check_early(["--model", MODEL, "--port", "0", "--dm", str(fused)])
    (fused / "config.json").unlink()
    assert f"--dm: {fused} holds no model" in said("--dm", str(fused))
    again = make_dm(tmp_path / "again", "fused")
    (again / STATE_HEAD_NAME).unlink()
    assert said("--dm", str(again)) == f"--dm: {again} is of kind fused and has no {STATE_HEAD_NAME}"


VALUES = {
    "dm_url": "http://127.0.0.1:9",
    "dm_cpus": "0",
    "dm_nice": "3",
    "dm_dtype": "bfloat16",
    "dm_gpu_memory_utilization": "0.2",
    "dm_kv_cache_memory_bytes": "4000000",
}


@pytest.mark.parametrize("said", [early, late])
@pytest.mark.parametrize("name", ["dm_url", *NOT_REMOTE])
def test_a_flag_about_an_engine_that_a_head_has_not_is_refused(said: Callable[..., str], name: str, head: Path) -> None:
    complaint = "has no effect: this DM is a head, which runs inside the Reasoner's engine"
    assert said("--dm", str(head), flag(name), VALUES[name]) == f"{flag(name)}: {complaint}"
    if name == "dm_url":
        return
    check_early(["--model", MODEL, "--port", "0", "--dm", DM, "--dm-beside", f"a={head}", flag(name), VALUES[name]])


def test_a_head_takes_no_share_of_a_gpu(
    head: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arguments, "on_cpu", lambda: False)
    alone, judged = (
        parse_args(["--model", "some/model", *own]).gpu_memory_utilization for own in ([], ["--dm", str(head)])
    )
    assert judged == alone


# What is started --------------------------------------------------------------------------------------------


def served(dm: str, *beside: str, model: str = MODEL) -> argparse.Namespace:
    args = own_parser().parse_args(["--dm", dm, *(part for entry in beside for part in ("--dm-beside", entry))])
    args.model = model
    return args


def test_dms_are_read_in_the_order_in_which_they_were_given(head: Path, tmp_path: Path) -> None:
    second = make_dm(tmp_path / "second=2", "head", id="second")
    found = read_dms(served(DM, f"b={second}", f"a={head}"), RULE)
    assert [(dm.name, dm.path, dm.card.kind) for dm in found] == [
        ("", Path(DM), "text"),
        ("b", second, "head"),
        ("a", head, "head"),
    ]
    assert [dm.head_file for dm in found] == [None, second / STATE_HEAD_NAME, head / STATE_HEAD_NAME]
    assert read_dms(argparse.Namespace(**{**vars(served(DM)), "dm": None}), RULE) == []


def test_every_dm_must_be_of_this_reasoner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stranger = make_dm(tmp_path / "stranger", "head", reasoner="0123456789abcdef", reasoner_name="another")
    args = served(DM, f"a={stranger}")
    with pytest.raises(StartupError, match="trained on the behaviour of another, not of this Reasoner"):
        read_dms(args, RULE)
    args.dm_allow_mismatch = True
    assert len(read_dms(args, RULE)) == 2
    assert "served all the same" in caplog.text
    assert fingerprint(reference.reasoner_folder()) == DmCard.load(reference.dm_folder()).reasoner


def test_the_weights_of_a_hubs_id_are_looked_for_only_where_a_dm_is_checked_against_them(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(model: str, **options: Any) -> str:
        asked.append((model, options))
        return str(reference.reasoner_folder())

    monkeypatch.setattr(judges, "snapshot_download", snapshot)
    engine: Any = SimpleNamespace(model_config=SimpleNamespace(model="some/model", revision="v1"))
    args = served(DM, model="some/model")
    check_downloaded([], engine, RULE, args)
    assert asked == [], "a model from elsewhere than a hub has no folder there, and needs none"
    check_downloaded(read_dms(args, RULE), engine, RULE, args)
    assert asked == [("some/model", {"revision": "v1", "local_files_only": True})]
    stranger = make_dm(tmp_path / "stranger", "head", reasoner="0123456789abcdef", reasoner_name="another")
    with pytest.raises(StartupError, match="trained on the behaviour of another, not of this Reasoner"):
        check_downloaded(read_dms(served(str(stranger), model="some/model"), RULE), engine, RULE, args)


async def test_a_started_dm_has_the_scorer_of_its_kind(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.judge.test_state_scorer import Classifier, text_scorer

    classify = Classifier()

    def start_text(folder: DmFolder, args: argparse.Namespace) -> Dm:
        scorer: Any = text_scorer(classify)
        return Dm(folder.card, scorer, scorer)

    monkeypatch.setattr(judges, "_start_text", start_text)
    fused = make_dm(tmp_path / "fused", "fused")
    (fused / SELF_TEST_NAME).unlink()  # this classifier says something else
    write_sums(fused)
    folders = read_dms(served(str(fused), f"a={head}"), RULE)
    dms = [start_judge(folder, place, served(DM)) for place, folder in enumerate(folders)]
    first, second = (dm.scorer for dm in dms)
    assert isinstance(first, StateScorer)
    assert isinstance(second, StateScorer)
    assert (first.place, second.place) == (0, 1)
    assert (first.head.kind, second.head.kind) == ("fused", "head")
    assert isinstance(first.text, DmScorer)
    assert second.text is None
    assert [dm.name for dm in dms] == ["", "a"]
    await warm_up(dms)
    assert classify.asked >= 2, "the classifier is warmed up, by one boundary and by several; a head needs none"
    assert "warmed up" not in caplog.text
    assert [dm.dead for dm in dms] == [False, False]
