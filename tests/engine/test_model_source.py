"""Whether there is such a model is told at once; what can only be a path is never asked of the hub."""

import shutil
import time
from pathlib import Path

import huggingface_hub
import pytest

from drr import reference
from drr.engine import model_source
from drr.engine.model_source import TOKENIZER_FILES, check_model, is_path
from drr.errors import InputError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a hub that knows org/model only."""
    asked: list[str] = []

    def info(self: object, name: str, timeout: float) -> None:
        asked.append(name)
        if name != "org/model":
            kind = type("RepositoryNotFoundError", (Exception,), {})
            raise kind("404")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return asked


@pytest.mark.parametrize("name", ["/nope", "./nope", "../a/b", "~/model", "a/b/c", "model/", "x y", "dm.json", "."])
def test_what_can_only_be_a_path_is_not_asked_of_the_hub(name: str, hub: list[str]) -> None:
    with pytest.raises(InputError, match=r"^--model: (there is no folder|\. holds no model)"):
        check_model(name, "--model")
    assert hub == []


def test_what_begins_with_a_folder_of_this_one_is_a_path(
    tmp_path: Path, hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match="there is no folder models/qwen"):
        check_model("models/qwen", "--model")
    assert hub == []
    assert not is_path("Qwen/Qwen3-8B")
    assert not is_path("gpt2")


def test_folders_are_looked_into(tmp_path: Path, hub: list[str]) -> None:
    check_model(str(reference.reasoner_folder()), "--model")
    check_model(str(reference.reasoner_folder()), "--tokenizer", TOKENIZER_FILES)
    with pytest.raises(InputError, match=r"holds no model: it has no config.json"):
        check_model(str(tmp_path), "--model")
    shutil.copy(reference.reasoner_folder() / "config.json", tmp_path)
    check_model(str(tmp_path), "--model")
    with pytest.raises(InputError, match=r"holds no model: it has no tokenizer.json"):
        check_model(str(tmp_path), "--tokenizer", TOKENIZER_FILES)
    with pytest.raises(InputError, match="is a file, not the folder of a model"):
        check_model(str(tmp_path / "config.json"), "--model")
    assert hub == []


def test_the_hub_is_asked_once(hub: list[str]) -> None:
    check_model("org/model", "--model")
    with pytest.raises(InputError, match="there is no folder org/other, and the hub has no such model"):
        check_model("org/other", "--model")
    assert hub == ["org/model", "org/other"]


def test_other_stores_are_left_alone(hub: list[str]) -> None:
    with pytest.raises(InputError, match="--model: must not be empty"):
        check_model("", "--model")
    check_model("s3://bucket/model", "--model")
    check_model("org/model-GGUF:Q4_K_M", "--model")
    assert hub == []


def test_a_hub_that_may_not_be_asked_is_not(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        check_model("org/model", "--model")
    assert hub == []


def test_what_the_cache_holds_is_not_asked_for(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: "/cache/config.json")
    check_model("org/cached", "--model")
    assert hub == []


def test_a_hub_that_is_silent_is_given_up(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_source, "HUB_SECONDS", 0.1)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, timeout: time.sleep(2))
    started = time.monotonic()
    with pytest.raises(InputError, match=r"the hub did not answer in 0.1 s"):
        check_model("org/slow", "--model")
    assert time.monotonic() - started < 1.5
