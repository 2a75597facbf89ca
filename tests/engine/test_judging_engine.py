"""An engine prepared to judge: spare token ids, what does not go together, what its processes are told."""

import os
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.config import ModelConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.models import ModelRegistry

from drr import reference
from drr.engine import judged_plugin, judging_engine
from drr.engine.judged_model import CONFIG_KEY, heads_told
from drr.engine.judged_plugin import ARCHITECTURE_VARIABLE
from drr.engine.judging_engine import prepare_to_judge, refuse, spare_ids
from drr.engine.state_head import StateHead
from drr.errors import InputError
from tests.engine.judged_requests import environment_kept
from tests.server.test_real_tokenizers import FOLDER, MODELS, tokenizer_of
from tests.tiny_models import tiny

MODEL = str(reference.reasoner_folder())
SIZE = 256
CONFIG_SIZES = {"qwen3": 151936, "deepseek_v3": 129280, "gptoss": 201088}


@pytest.fixture(autouse=True)
def unprepared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    with environment_kept():
        yield


def config_of(model: str | Path = MODEL, **options: Any) -> VllmConfig:
    return AsyncEngineArgs(model=str(model), **options).create_engine_config()


@pytest.fixture
def config() -> VllmConfig:
    return config_of()


def saved(path: Path, size: int = SIZE) -> Path:
    StateHead(size, 4).save(path)
    return path


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return saved(tmp_path / "head.safetensors")


# Spare ids


@pytest.mark.skipif(FOLDER is None, reason="no folder shared/tokenizers with real tokenizers was found")
@pytest.mark.parametrize("name", MODELS)
def test_real_vocabularies_have_ids_that_no_text_makes(name: str) -> None:
    tokenizer, size = tokenizer_of(name), CONFIG_SIZES[name]
    found = spare_ids(tokenizer.get_vocab(), tokenizer.max_token_id, size, tokenizer.all_special_ids, 9)
    assert len(set(found)) == 9
    assert not set(found) & {*tokenizer.get_vocab().values(), *tokenizer.all_special_ids}
    assert all(tokenizer.max_token_id < token_id < size for token_id in found)
    assert tokenizer.decode(found) == ""


def vocabulary(*names: str, words: int = 100) -> dict[str, int]:
    return {name: token_id for token_id, name in enumerate((*map(str, range(words)), *names))}


@pytest.mark.parametrize(
    ("names", "spare"),
    [
        ([f"<|reserved_special_token_{n}|>" for n in range(3)], [102, 101, 100]),  # Llama 3
        ([f"<unused{n}>" for n in range(3)], [102, 101, 100]),  # Gemma
        ([f"[unused{n}]" for n in range(3)], [102, 101, 100]),  # BERT
        ([f"<SPECIAL_{n}>" for n in range(3)], [102, 101, 100]),  # Mistral, Nemotron
        ([f"[control_{n}]" for n in range(3)], [102, 101, 100]),  # Mistral 0.3
        ([f"<|placeholder{n}|>" for n in range(3)], [102, 101, 100]),  # Phi-3
        ([f"<|dummy_{n}|>" for n in range(3)], [102, 101, 100]),  # Phi-4
        ([f"<|reserved_{n}|>" for n in range(200013, 200016)], [102, 101, 100]),  # gpt-oss
        ([f"[PAD{n}]" for n in range(100, 103)], [102, 101, 100]),  # what GGUF files fill vocabularies with
        (["<unused0>", "<|end|>", "<unused1>", "<unused2>"], [103, 102, 100]),
    ],
)
def test_names_that_are_held_in_reserve(names: list[str], spare: list[int]) -> None:
    names_and_all = vocabulary(*names)
    assert spare_ids(names_and_all, max(names_and_all.values()), len(names_and_all), [], 3) == spare


@pytest.mark.parametrize("name", ["unused1", "<unused>", "<special>", "<|im_end|>", "[MASK]", "control7", "<tool_7>"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(InputError, match="needs 1 token ids"):
        spare_ids(vocabulary(name), 100, 101, [], 1)


def test_ids_behind_the_last_name_are_taken_first() -> None:
    assert spare_ids(vocabulary("<unused0>"), 100, 103, [], 3) == [102, 101, 100]


def test_gaps_between_names_may_be_tokens_of_equal_text() -> None:
    gaps = {name: token_id for name, token_id in vocabulary().items() if token_id % 2}
    assert spare_ids(gaps, 99, 102, [], 2) == [101, 100]
    with pytest.raises(InputError, match="its vocabulary has 2"):
        spare_ids(gaps, 99, 102, [], 3)
    with pytest.raises(InputError, match="its vocabulary has 0"):
        spare_ids(gaps, 120, 102, [], 1)


def test_ids_that_are_used_are_never_taken() -> None:
    assert spare_ids(vocabulary("<unused0>", "<unused1>"), 101, 104, [103, 101], 2) == [102, 100]


def test_ids_behind_the_output_layer_are_never_taken() -> None:
    assert spare_ids(vocabulary(*(f"<unused{n}>" for n in range(4))), 103, 102, [], 2) == [101, 100]


def test_a_full_vocabulary_is_refused_in_one_sentence(tmp_path: Path) -> None:
    config = config_of(tiny(tmp_path / "full", "causal"))
    with pytest.raises(InputError) as refused:
        prepare_to_judge(config, [saved(tmp_path / "head", size=32)])
    assert str(refused.value) == ("--dm: a head needs 4 token ids that this Reasoner never uses, its vocabulary has 0")


@pytest.mark.parametrize("setting", ["pad_token_id", "image_token_id", "image_token_index", "forced_token_ids"])
def test_ids_that_the_models_settings_name_are_used(setting: str, config: VllmConfig, head: Path) -> None:
    config.model_config.hf_config.update({setting: [767] if setting.endswith("s") else 767})
    assert 767 not in prepare_to_judge(config, [head]).all


def test_ids_that_the_generation_settings_name_are_used(
    config: VllmConfig, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelConfig, "try_get_generation_config", lambda self: {"eos_token_id": [2, 766]})
    assert 766 not in prepare_to_judge(config, [head]).all


def test_the_reference_reasoner_has_spare_ids(config: VllmConfig, head: Path) -> None:
    names = set(AutoTokenizer.from_pretrained(MODEL).get_vocab().values())
    ids = prepare_to_judge(config, [head])
    assert not names & set(ids.all)
    assert len(ids.outputs) == 2


# What does not go together


DRAFTS = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--speculative-config", {"speculative_config": DRAFTS}),
        ("--enable-lora", {"enable_lora": True}),
        ("--pipeline-parallel-size", {"pipeline_parallel_size": 2}),
        ("--logprobs-mode", {"logprobs_mode": "processed_logprobs"}),
        ("--logprobs-mode", {"logprobs_mode": "processed_logits"}),
    ],
)
def test_options_that_clash_are_refused(option: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"does not go together with a DM that is a head: \w") as refused:
        refuse(config_of(**given))
    assert refused.value.where == option


@pytest.mark.parametrize("mode", ["raw_logprobs", "raw_logits"])
def test_raw_log_probabilities_go_together(mode: str) -> None:
    refuse(config_of(logprobs_mode=mode))


@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("--enable-batch-sharded-sampling", {"enable_batch_sharded_sampling": True}),  # GPUs only: set behind vLLM
        ("--nnodes", {"nnodes": 2}),
        ("--data-parallel-size-local", {"data_parallel_size": 4, "data_parallel_size_local": 2}),
        ("--data-parallel-size-local", {"data_parallel_size": 2, "data_parallel_size_local": 0}),
    ],
)
def test_ways_to_run_in_parallel_that_clash_are_refused(
    option: str, settings: dict[str, Any], config: VllmConfig
) -> None:
    for name, value in settings.items():
        setattr(config.parallel_config, name, value)
    with pytest.raises(InputError, match=r"does not go together with a DM that is a head: \w") as refused:
        refuse(config)
    assert refused.value.where == option


@pytest.mark.parametrize(
    "settings",
    [
        {"data_parallel_size": 2, "data_parallel_size_local": 2},
        {"data_parallel_size": 2, "data_parallel_size_local": 1, "data_parallel_external_lb": True},
        {"data_parallel_size": 4, "data_parallel_size_local": 2, "data_parallel_hybrid_lb": True},
        {"data_parallel_size": 4, "data_parallel_size_local": 2, "data_parallel_backend": "ray"},
    ],
)
def test_engines_that_are_all_started_from_here_go_together(settings: dict[str, Any], config: VllmConfig) -> None:
    for name, value in settings.items():
        setattr(config.parallel_config, name, value)
    refuse(config)


def test_encoders_with_decoders_are_refused(config: VllmConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = cached_property(lambda _: True)
    encoder.__set_name__(ModelConfig, "is_encoder_decoder")
    monkeypatch.setattr(ModelConfig, "is_encoder_decoder", encoder)
    config.model_config.__dict__.pop("is_encoder_decoder", None)
    with pytest.raises(InputError, match="one state per token"):
        refuse(config)


def test_a_configuration_that_is_no_dictionary_is_refused(config: VllmConfig) -> None:
    config.additional_config = object()  # type: ignore[assignment]
    with pytest.raises(InputError, match="--additional-config: must be a dictionary"):
        refuse(config)


@pytest.mark.parametrize("found", [(), (EntryPoint("other", "x:y", judging_engine.PLUGIN_GROUP),)])
def test_a_plugin_that_vllm_cannot_find_is_told(
    found: tuple[EntryPoint, ...], config: VllmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging_engine, "entry_points", lambda group: found)
    with pytest.raises(InputError, match="installed by pip"):
        refuse(config)


def test_heads_of_another_size_are_refused(config: VllmConfig, head: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other", size=64)
    with pytest.raises(InputError, match="reads states of 64 numbers, this Reasoner's have 256"):
        prepare_to_judge(config, [head, other])


def test_no_more_heads_than_a_request_can_name(config: VllmConfig, head: Path) -> None:
    with pytest.raises(InputError, match="130 numbers cannot be read from one engine, at most 129"):
        prepare_to_judge(config, [head] * 64)


def test_what_is_refused_leaves_nothing_behind(config: VllmConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        prepare_to_judge(config, [tmp_path / "missing"])
    assert heads_told(config) == {}
    assert ARCHITECTURE_VARIABLE not in os.environ


# What the engine's processes are told


def test_the_processes_are_told(head: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(additional_config={"other": 1})
    ids = prepare_to_judge(config, [Path("head.safetensors")])
    told = heads_told(config)
    assert told == {"heads": [str(head)], "ids": ids.all, "heir": told["heir"]}
    assert told["heir"] not in ids.all
    assert config.additional_config["other"] == 1
    assert set(config.additional_config) == {"other", CONFIG_KEY}
    assert os.environ[ARCHITECTURE_VARIABLE] == "Qwen2ForCausalLM"
    assert ARCHITECTURE_VARIABLE in os.environ["VLLM_RAY_EXTRA_ENV_VARS_TO_COPY"].split(",")


@pytest.mark.parametrize(
    ("before", "after"), [(None, None), ("", "drr"), ("other", "other,drr"), ("drr,other", "drr,other")]
)
def test_a_list_of_allowed_plugins_is_extended(
    before: str | None, after: str | None, config: VllmConfig, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is not None:
        monkeypatch.setenv("VLLM_PLUGINS", before)
    prepare_to_judge(config, [head])
    prepare_to_judge(config_of(), [head])
    assert os.environ.get("VLLM_PLUGINS") == after


def test_the_plugin_registers_the_class_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ModelRegistry.models["Qwen2ForCausalLM"]
    judged_plugin.register()
    assert ModelRegistry.models["Qwen2ForCausalLM"] is before
    monkeypatch.setenv(ARCHITECTURE_VARIABLE, "Qwen2ForCausalLM")
    judged_plugin.register()
    judged_plugin.register()
    judged = ModelRegistry.models["Qwen2ForCausalLM"].load_model_cls()
    assert judged.__mro__[1] is before.load_model_cls()
    assert judged.__name__ == "Qwen2ForCausalLM"


def test_a_judged_model_is_known_without_being_loaded(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM looks at classes that it does not know in a process of its own, and keeps what it saw for good."""
    prepare_to_judge(config_of(), [head])
    monkeypatch.setattr("vllm.model_executor.models.registry._run_in_subprocess", lambda look: pytest.fail("looked"))
    assert config_of().model_config.architecture == "Qwen2ForCausalLM"
