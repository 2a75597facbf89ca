"""Prepare a Reasoner's engine to judge: find spare token ids, refuse what does not go together, tell the processes."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vllm.config import ParallelConfig, VllmConfig
from vllm.tokenizers import cached_tokenizer_from_config

from drr.engine.judged_model import CONFIG_KEY, register_judged
from drr.engine.judged_plugin import ARCHITECTURE_VARIABLE
from drr.engine.state_head import OUTPUTS, StateHead
from drr.engine.state_ids import MOST_NAMED, StateIds
from drr.errors import InputError

PLUGIN_GROUP, PLUGIN_NAME = "vllm.general_plugins", "drr"
_PLUGINS, _COPIED_BY_RAY = "VLLM_PLUGINS", "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY"
_NEVER_MADE = re.compile(
    r"[<\[]\W*(?:reserved_special_token|reserved|unused|dummy|special|control|placeholder|pad)_?\d+\W*[>\]]",
    re.IGNORECASE,
)
"""The names of tokens that a vocabulary holds in reserve, such as <|reserved_special_token_7|> and [unused12]."""

_NAMES_A_TOKEN = re.compile(r"_token_(?:ids?|index)$")
"""How settings of a model end that name token ids."""


def spare_ids(vocabulary: Mapping[str, int], last: int, size: int, used: Collection[int], count: int) -> list[int]:
    """`count` token ids below `size` that are never made: those behind `last`, the last that the tokenizer knows, from
    the highest down, then those whose name says that they are held in reserve. `used` are never taken. InputError if
    there are too few.

    Gaps between names are left alone: vocabularies that are told as a dictionary lose tokens of equal text.
    """
    behind = reversed(range(max(last, *vocabulary.values()) + 1, size))
    reserved = sorted((token_id for name, token_id in vocabulary.items() if _NEVER_MADE.fullmatch(name)), reverse=True)
    found = [token_id for token_id in (*behind, *reserved) if token_id < size and token_id not in used][:count]
    if len(found) < count:
        raise InputError(
            "--dm", f"a head needs {count} token ids that this Reasoner never uses, its vocabulary has {len(found)}"
        )
    return found


def prepare_to_judge(config: VllmConfig, heads: Sequence[Path]) -> StateIds:
    """Have the engine of this configuration run these heads (files). To be called before the engine is started.

    InputError where it cannot: no spare ids, heads for another size of state, options that do not go together.
    """
    refuse(config)
    size = config.model_config.get_hidden_size()
    for path in heads:
        if (read := StateHead.load(path).size) != size:
            raise InputError("--dm", f"{path} reads states of {read} numbers, this Reasoner's have {size}")
    heir, *ids = _spare_ids_of(config, 2 + len(OUTPUTS) * len(heads))
    architecture = config.model_config.architecture
    config.additional_config[CONFIG_KEY] = {
        "heads": [str(path.resolve()) for path in heads],
        "ids": ids,
        "heir": heir,
    }
    os.environ[ARCHITECTURE_VARIABLE] = architecture
    for variable, name in ((_PLUGINS, PLUGIN_NAME), (_COPIED_BY_RAY, ARCHITECTURE_VARIABLE)):
        _add_to(variable, name)
    register_judged(architecture)  # for processes that are forked from this one
    return StateIds(ids[0], tuple(ids[1:]))


def refuse(config: VllmConfig) -> None:
    """InputError, one sentence, where an engine of this configuration cannot judge."""
    model, parallel = config.model_config, config.parallel_config
    if not any(plugin.name == PLUGIN_NAME for plugin in entry_points(group=PLUGIN_GROUP)):
        raise InputError("--dm", "a head needs DRR to be installed by pip: else vLLM does not find its plugin")
    elsewhere = "engines that other machines start do not know of it"
    for option, clashes, reason in (
        ("--speculative-config", config.speculative_config is not None, "drafts are not judged"),
        ("--enable-lora", config.lora_config is not None, "it was trained on the states of the model without adapters"),
        ("--logprobs-mode", model.logprobs_mode.startswith("processed"), "it is read from the raw log-probabilities"),
        (
            "--enable-batch-sharded-sampling",
            bool(parallel.enable_batch_sharded_sampling),
            "sharded logits hold no place for it",
        ),
        ("--pipeline-parallel-size", parallel.pipeline_parallel_size > 1, "its outputs were never checked there"),
        ("--nnodes", parallel.nnodes > 1, elsewhere),
        ("--data-parallel-size-local", _has_engines_elsewhere(parallel), elsewhere),
        ("--model", model.is_encoder_decoder, "encoder-decoder models have no one state per token"),
    ):
        if clashes:
            raise InputError(option, f"does not go together with a DM that is a head: {reason}")
    if not isinstance(config.additional_config, dict):
        raise InputError("--additional-config", "must be a dictionary beside a DM that is a head")


def _has_engines_elsewhere(parallel: ParallelConfig) -> bool:
    """Whether some of the engines that answer are started by somebody else. Ray's are started from here."""
    own = parallel.local_engines_only or parallel.data_parallel_backend == "ray"
    return not own and parallel.data_parallel_size_local < parallel.data_parallel_size


def _spare_ids_of(config: VllmConfig, count: int) -> list[int]:
    if count > MOST_NAMED + 1:  # the heir's is not asked for
        raise InputError("--dm", f"{count} numbers cannot be read from one engine, at most {MOST_NAMED + 1}")
    model = config.model_config
    tokenizer = cached_tokenizer_from_config(model)
    vocabulary = tokenizer.get_vocab()
    names = {token_id: name for name, token_id in vocabulary.items()}
    told = (model.hf_config.to_dict(), model.hf_text_config.to_dict(), model.try_get_generation_config())
    named = (value for settings in told for name, value in settings.items() if _NAMES_A_TOKEN.search(name))
    used = {token_id for value in named for token_id in _listed(value)}
    used |= {token_id for token_id in tokenizer.all_special_ids if not _NEVER_MADE.fullmatch(names.get(token_id, ""))}
    return spare_ids(vocabulary, tokenizer.max_token_id, model.get_vocab_size(), used, count)


def _listed(ids: Any) -> list[Any]:
    return list(ids) if isinstance(ids, list | tuple) else [ids]


def _add_to(variable: str, name: str) -> None:
    """Add a name to a list in the environment; an unset VLLM_PLUGINS already means all plugins."""
    listed = [entry for entry in os.environ.get(variable, "").split(",") if entry]
    unset = variable not in os.environ and variable == _PLUGINS
    if not unset and name not in listed:
        os.environ[variable] = ",".join([*listed, name])
