"""Which endpoint takes DRR's options, as data. What an endpoint does not take it refuses; nothing is ignored that the
client could have left out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from server.keys import Mode

CHAT_PATH = "/v1/chat/completions"
RESPONSES_PATH, MESSAGES_PATH = "/v1/responses", "/v1/messages"
HEADER = "x-drr"
OUTCOME_HEADER = "x-drr-outcome"
ALIAS_STATE = "drr_alias"
"""Where a request's state says which mode its model's alias means, if that is known before the request is read."""

ALIASES: dict[str, Mode] = {"drr": "auto", "full": "off"}
"""What may stand behind a model's name, and the mode that it means."""


def served_names(models: Any) -> set[str]:
    """The names of what vLLM's `models` serve, LoRA adapters among them."""
    return {*(path.name for path in models.base_model_paths), *models.lora_requests}


def split_alias(model: str, served: Collection[str]) -> tuple[str, Mode] | None:
    """The name before an alias and the mode that the alias means; None where there is none, or where a model is really
    called that."""
    name, _, alias = model.rpartition(":")
    return None if model in served or not name or alias not in ALIASES else (name, ALIASES[alias])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an endpoint does with DRR's options. `thinks` tells that a model generates there, in full and unjudged: such
    an endpoint refuses the header and the alias for judged thinking. Where nothing is generated the header, which
    clients send with everything, is ignored, and an alias is the model's other name."""

    path: str
    takes_drr: bool = False
    thinks: bool = True
    what: str = ""


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(CHAT_PATH, takes_drr=True, what="chat completions"),
    Endpoint(RESPONSES_PATH, takes_drr=True, what="Responses"),
    Endpoint(MESSAGES_PATH, takes_drr=True, what="Anthropic's Messages"),
    Endpoint("/invocations", takes_drr=True, what="SageMaker's path; requests with `messages` are chat completions"),
    Endpoint("/v1/chat/completions/batch", what="several conversations at once"),
    Endpoint("/v1/completions", what="completions"),
    Endpoint("/v1/systemone", what="decisions"),
    Endpoint("/cohere/v2/chat", what="Cohere's chat"),
    Endpoint("/generative_scoring", what="generative scoring"),
    Endpoint("/inference/v1/generate", what="tokens in, tokens out"),
    Endpoint("/v1/messages/count_tokens", thinks=False, what="token counts"),
    Endpoint("/tokenize", thinks=False, what="text to tokens"),
    Endpoint("/detokenize", thinks=False, what="tokens to text"),
    Endpoint("/v1/chat/completions/render", thinks=False, what="prompts rendered"),
    Endpoint("/v1/completions/render", thinks=False, what="prompts rendered"),
    Endpoint("/v1/messages/render", thinks=False, what="prompts rendered"),
    Endpoint("/v1/responses/render", thinks=False, what="prompts rendered"),
    Endpoint("/v1/chat/completions/derender", thinks=False, what="outputs parsed"),
    Endpoint("/v1/completions/derender", thinks=False, what="outputs parsed"),
    Endpoint("/v1/load_lora_adapter", thinks=False, what="adapters"),
    Endpoint("/v1/unload_lora_adapter", thinks=False, what="adapters"),
)
"""The paths that are written to. One that is not here is taken for one that thinks."""

_BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}


_MANAGING = frozenset(
    {
        *("/pause", "/resume", "/sleep", "/wake_up", "/abort_requests", "/reset_prefix_cache", "/reset_mm_cache"),
        *("/reset_encoder_cache", "/collective_rpc", "/scale_elastic_ep", "/is_scaling_elastic_ep"),
        *("/start_profile", "/stop_profile", "/init_weight_transfer_engine", "/update_weights"),
        "/inference/v1/abort_requests",
    }
)
"""Where nothing is generated, and nobody may have to wait behind those that generate."""


def path_of(scope: Mapping[str, Any]) -> str:
    """The path of an ASGI request, without what stands before it where the server is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def endpoint_of(path: str) -> Endpoint:
    """The endpoint at a path."""
    if path in _MANAGING:
        return Endpoint(path, thinks=False)
    if path.startswith("/v1/responses/") and path.endswith("/cancel"):
        return Endpoint(path, thinks=False)
    return _BY_PATH.get(path, Endpoint(path))


def markdown_table() -> str:
    """The table of the endpoints."""
    rows = [
        "| endpoint | `drr` object | `X-DRR` | `<name>:drr` | `<name>:full` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for endpoint in ENDPOINTS:
        if endpoint.takes_drr:
            cells = ("taken", "taken", "taken", "taken")
        elif endpoint.thinks:
            cells = ("refused", "refused", "refused", "taken")
        else:
            cells = ("refused", "ignored", "taken", "taken")
        rows.append(f"| `{endpoint.path}` ({endpoint.what}) | {' | '.join(cells)} |")
    return "\n".join(rows)
