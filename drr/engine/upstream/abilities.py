"""What an upstream allows, as it was found at start: printed, and shown with its model."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from drr.engine.upstream.chat import ChatAbilities

Tier = Literal["completions", "prefix", "opaque"]
"""How much of the loop an upstream allows. `completions`: it goes on from any prompt. `prefix`: it goes on from a
partial message of the assistant's. `opaque`: it gives whole answers only."""

IdsFrom = Literal["token_ids", "logprobs", "text"]
"""Where the ids of generated tokens come from: sent with each chunk, sent beside log-probabilities, or made here of
each chunk's text."""

_TIERS: dict[Tier, str] = {
    "completions": "it goes on from any prompt: stops, nudges, budgets, re-thinking and probes work",
    "prefix": "it goes on from a partial thought: stops cost a prompt sent again",
    "opaque": "it gives whole answers only: nothing is decided in the middle of a thought",
}


@dataclass(frozen=True, slots=True)
class UpstreamAbilities:
    """`model` is what the upstream calls the model, `engine` who serves it (vllm, llamacpp, sglang, ...; empty where it
    does not say). `logprobs` is how many of the likeliest tokens come with each: 0 for the sampled one alone, None for
    no log-probabilities. `samples` are sampling options beyond temperature and top_p that it takes. `notes` are for
    people."""

    tier: Tier
    model: str
    engine: str = ""
    forced: bool = False
    max_model_len: int | None = None
    token_prompts: bool = False
    ids_from: IdsFrom = "text"
    logprobs: int | None = None
    usage: bool = False
    structured_outputs: bool = False
    samples: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    chat: ChatAbilities | None = None
    """What its chat completions allow, where only those are used."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def lines(self) -> list[str]:
        """For a terminal."""
        who = f" on {self.engine}" if self.engine else ""
        forced = " (as told)" if self.forced else ""
        told = [f"Upstream: {self.model}{who}, tier {self.tier}{forced}: {_TIERS[self.tier]}."]
        if self.tier == "completions":
            prompts = "token ids" if self.token_prompts else "text"
            ids = {"token_ids": "sent", "logprobs": "sent with log-probabilities", "text": "made of the text here"}
            likely = "none" if self.logprobs is None else f"of the token and up to {self.logprobs} others"
            told.append(f"  prompts go as {prompts}; ids of tokens: {ids[self.ids_from]}; log-probabilities: {likely}")
            told.append(f"  sampling options: temperature, top_p{''.join(f', {name}' for name in self.samples)}")
        return [*told, *(f"  {note}" for note in self.notes)]
