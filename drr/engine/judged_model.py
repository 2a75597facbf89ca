"""State heads in the Reasoner's forward pass: a subclass of vLLM's model class that judges where it computes logits.

vLLM hands a model's last hidden states to its `compute_logits`. The subclass runs the heads on them as well, and writes
what they say into the columns of spare token ids, which no tokenizer makes: into the first one a level so low that
nothing is ever sampled there, into the others that level plus an output. A request reads them by asking for the
log-probabilities of those ids (`SamplingParams.logprob_token_ids`): their differences are the outputs. All other logits
are left as they are, and one more spare id, the heir, gets what the model gave to the ones that are written over: the
probabilities of all tokens stay what they were.

This runs in the engine's processes. `drr.engine.judging_engine` prepares an engine for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models import ModelRegistry

from drr.engine.state_head import StateHead
from drr.engine.v1_sampler import mend_sampler

CONFIG_KEY = "drr"
"""Where an engine's configuration (`additional_config`) tells of its heads: `heads`, their files, `ids`, the spare
token ids (one for the level, and two for each head), and `heir`."""

LEVEL = -400.0
"""The logit that outputs are added to. Even divided by a temperature of 4 it is 100 below every token's, where float32
knows no probability any more; and it is near enough that float32 keeps an output to 3e-5."""

_LARGEST = 60.0


class HeadsInLogits(nn.Module):
    """The heads of a model. What they say is written into the logits."""

    def __init__(
        self, heads: Sequence[StateHead], ids: Sequence[int], heir: int, device: torch.device | str | None
    ) -> None:
        """`heir` is another spare id: it gets the probability that the model gives to `ids`, so that what it gives to
        all others stays what it is."""
        super().__init__()
        self.heads = nn.ModuleList(_without_parameters(head.to(device)) for head in heads)
        self.register_buffer("columns", torch.tensor([heir, *ids], device=device), persistent=False)

    def write(self, states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The logits [N, vocabulary], float32, with what the heads say of the states [N, size] in the spare columns."""
        logits = logits.float()  # 16 bits cannot tell -400 from -399; samplers compute in float32 anyway
        columns = self.get_buffer("columns")
        inherited = logits[:, columns].logsumexp(dim=-1, keepdim=True)
        said = torch.cat([head(states) for head in self.heads], dim=-1).clamp(-_LARGEST, _LARGEST) + LEVEL
        logits[:, columns] = torch.cat([inherited, torch.full_like(inherited, LEVEL), said], dim=-1)
        return logits


def _without_parameters(head: StateHead) -> StateHead:
    """The head with its weights as buffers: vLLM takes parameters for what the model's files must hold. The buffers are
    in no state dictionary, because vLLM fills what is there with noise where a model is to have random weights."""
    for module in head.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach(), persistent=False)
    return head


@dataclass(frozen=True)
class JudgedModel:
    """An entry of vLLM's registry that stands in for another. What vLLM asks of a model before loading it holds for the
    judged class as well; vLLM would have to import it in a process of its own to know that."""

    plain: Any

    def inspect_model_cls(self) -> Any:
        """What the model can do."""
        return self.plain.inspect_model_cls()

    def load_model_cls(self) -> type[nn.Module]:
        """The judged class."""
        return judged(self.plain.load_model_cls())


def register_judged(architecture: str) -> None:
    """Let vLLM load the judged subclass where a model of this architecture is asked for."""
    plain = ModelRegistry.models[architecture]
    if not isinstance(plain, JudgedModel):
        ModelRegistry.models[architecture] = JudgedModel(plain)


@cache
def judged(model_class: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a vLLM model class that runs the heads which its engine's configuration tells of."""

    class Judged(model_class):  # type: ignore[valid-type, misc]
        def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", **more: Any) -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix, **more)
            told = heads_told(vllm_config)
            if told:
                heads = [StateHead.load(Path(path)) for path in told["heads"]]
                device = vllm_config.device_config.device  # weights may be elsewhere: offloaded, or yet to be made
                self.drr_heads = HeadsInLogits(heads, told["ids"], told["heir"], device)
                mend_sampler()

        def compute_logits(self, hidden_states: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor | None:
            logits: torch.Tensor | None = super().compute_logits(hidden_states, *rest, **more)
            if logits is None or not hasattr(self, "drr_heads"):
                return logits
            return self.drr_heads.write(hidden_states, logits)

    Judged.__name__, Judged.__qualname__ = model_class.__name__, model_class.__qualname__
    return Judged


def heads_told(config: VllmConfig) -> dict[str, Any]:
    """What an engine's configuration tells of its heads; empty where it has none."""
    told = config.additional_config.get(CONFIG_KEY, {}) if isinstance(config.additional_config, dict) else {}
    return dict(told)
