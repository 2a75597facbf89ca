"""The Reasoner's states at boundaries: the right rows, kept on disk, and never those of other weights or records."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from drr.errors import InputError
from drr.judge.dm_folder import fingerprint
from drr.learn import states as states_module
from drr.learn.distill_config import DistillConfig
from drr.learn.records import Manifest, read_rollouts, shards, write_shard
from drr.learn.states import STATES_NAME, read_states
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from tests.state_records import claim, records_of_tiny_reasoner, without_ids
from tests.tiny_models import tiny

ASKED = questions(5, Split.TRAIN, 6)
CONFIG = DistillConfig(rollouts=2, extra_rollouts=0, shard_questions=2)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, Manifest]:
    reasoner, records = records_of_tiny_reasoner(tmp_path, ASKED, CONFIG)
    return reasoner, records, Manifest.load(records)


def kept_files(records: Path) -> list[Path]:
    return sorted((records / STATES_NAME).rglob("*.safetensors"))


def test_states_are_the_last_ones_at_the_last_token_of_every_step(made: tuple[Path, Path, Manifest]) -> None:
    reasoner, records, manifest = made
    found = read_states(records, manifest, str(reasoner))
    rollouts = read_rollouts(records)
    assert found.size == 32
    model = AutoModelForCausalLM.from_pretrained(reasoner, dtype=torch.float32).eval()
    for rollout in rollouts:
        ids = [*(rollout.prompt_ids or ()), *(rollout.thought_ids or ())]
        with torch.inference_mode():
            last = model.model(torch.tensor([ids])).last_hidden_state[0]
            assert torch.allclose(model.lm_head(last), model(torch.tensor([ids])).logits[0], atol=1e-5)
        ends = [len(rollout.prompt_ids or ()) + end - 1 for end in itertools.accumulate(rollout.step_tokens)]
        assert torch.allclose(found.of([rollout]), last[ends], atol=1e-5)
    both = found.of(rollouts[:2])
    assert torch.equal(both, torch.cat([found.of(rollouts[:1]), found.of(rollouts[1:2])]))
    assert found.of([]).shape == (0, 32)


def test_states_are_computed_once(made: tuple[Path, Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    reasoner, records, manifest = made
    first = read_states(records, manifest, str(reasoner))
    assert len(kept_files(records)) == len(shards(records)) == 3
    monkeypatch.setattr(states_module, "load_layers", lambda *_: pytest.fail("loaded again"))
    for again in (read_states(records, manifest), read_states(records, manifest, str(reasoner))):
        assert torch.equal(again.of(read_rollouts(records)), first.of(read_rollouts(records)))


def test_states_are_computed_as_the_records_were(
    made: tuple[Path, Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoner, records, manifest = made
    load, loaded = states_module.load_layers, []
    monkeypatch.setattr(states_module, "load_layers", lambda *asked: loaded.append(load(*asked).dtype) or load(*asked))
    for dtype, computed in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        for kept in kept_files(records):
            kept.unlink()
        settings = {**manifest.settings, **({} if dtype is None else {"dtype": dtype})}
        read_states(records, replace(manifest, settings=settings), str(reasoner))
        assert loaded.pop() is computed


def test_a_stopped_run_goes_on_behind_its_last_whole_shard(
    made: tuple[Path, Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoner, records, manifest = made
    compute, computed = states_module._states, []

    def stopped(*arguments: object) -> torch.Tensor:
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(1)
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(states_module, "_states", stopped)
    with pytest.raises(KeyboardInterrupt):
        read_states(records, manifest, str(reasoner))
    assert len(kept_files(records)) == 2
    with pytest.raises(InputError, match="--reasoner: is needed"):
        read_states(records, manifest)
    computed.clear()
    read_states(records, manifest, str(reasoner))
    assert len(computed) == 1


@pytest.mark.parametrize("harm", ["shard", "file"])
def test_stale_or_damaged_states_are_never_used(made: tuple[Path, Path, Manifest], harm: str) -> None:
    reasoner, records, manifest = made
    read_states(records, manifest, str(reasoner))
    shard = shards(records)[1]
    if harm == "shard":
        rollouts = list(states_module.read_shard(shard))
        rollouts[0].prompt_ids = [7, *(rollouts[0].prompt_ids or ())]
        write_shard(shard, rollouts)
    else:
        path = kept_files(records)[1]
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="--reasoner: is needed"):
        read_states(records, manifest)
    found = read_states(records, manifest, str(reasoner)).of(read_rollouts(records))
    shutil.rmtree(records / STATES_NAME)
    assert torch.allclose(found, read_states(records, manifest, str(reasoner)).of(read_rollouts(records)))


def test_another_reasoner_is_refused(made: tuple[Path, Path, Manifest], tmp_path: Path) -> None:
    reasoner, records, manifest = made
    other = tiny(tmp_path / "other", "encoder")
    with pytest.raises(InputError, match=r"--reasoner: .*other is not the Reasoner of .*records, fake"):
        read_states(records, manifest, str(other))
    with pytest.raises(InputError, match="--reasoner: there is no folder"):
        read_states(records, manifest, str(tmp_path / "nowhere"))
    read_states(records, manifest, str(reasoner))
    claim(records, fingerprint(other))
    with pytest.raises(InputError, match="--reasoner: is needed"):  # what is kept is another Reasoner's
        read_states(records, Manifest.load(records))
    (other / "config.json").write_text('{"model_type": "none"}')
    with pytest.raises(InputError, match=r"--reasoner: .*other cannot be loaded"):
        read_states(records, Manifest.load(records), str(other))


def test_records_without_states_say_why(made: tuple[Path, Path, Manifest]) -> None:
    reasoner, records, manifest = made
    claim(records, "")
    with pytest.raises(InputError, match=r"field settings\.reasoner\.fingerprint: is empty"):
        read_states(records, Manifest.load(records), str(reasoner))
    manifest.settings["labels"] = "recorded"
    with pytest.raises(InputError, match="holds recorded solutions"):
        read_states(records, manifest, str(reasoner))
    claim(records, fingerprint(reasoner))
    without_ids(records)
    with pytest.raises(InputError, match=r"row 1, field prompt_ids: is unknown: records of an earlier version"):
        read_states(records, Manifest.load(records), str(reasoner))
