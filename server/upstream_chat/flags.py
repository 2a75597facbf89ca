"""Flags of `drr serve` that are of no use in front of a chat upstream: refused, never ignored."""

import argparse
from collections.abc import Mapping
from typing import Any

from drr.errors import InputError
from drr.loop.chat.said import Tier
from server.arguments import given_flags
from server.contradictions import flag

HONOURED = frozenset(
    {
        *("upstream", "upstream_model", "upstream_key_env", "upstream_tier", "upstream_price", "upstream_timeout"),
        *("dm", "dm_beside", "dm_url", "dm_deadline_ms", "dm_dtype", "dm_kv_cache_memory_bytes", "dm_cpus", "dm_nice"),
        *("dm_gpu_memory_utilization", "drr_mode", "drr_scorer", "drr_step_rule", "drr_answer_tokens"),
        *("drr_separator", "drr_refusal", "drr_reasoning_key", "drr_no_playground", "drr_api_keys", "drr_key_running"),
        *("drr_key_tokens", "drr_protect_metrics", "drr_max_running", "drr_max_waiting", "drr_max_body_bytes"),
        *("drr_max_branches", "drr_max_messages", "drr_request_seconds", "drr_stall_seconds", "drr_shutdown_lead"),
    }
)
"""DRR's own that are honoured."""

LISTENING = frozenset(
    {
        *("host", "port", "uds", "api_key", "served_model_name", "shutdown_timeout", "uvicorn_log_level"),
        *("disable_uvicorn_access_log", "log_config_file", "h11_max_incomplete_event_size", "h11_max_header_count"),
        *("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh"),
        *("config", "subparser", "dispatch_function"),
    }
)
"""vLLM's that are about listening, and honoured."""

_WHY = "has no effect: of this upstream only chat completions are used, and nothing of the Reasoner is here"


def refuse_useless(args: argparse.Namespace, usual: Mapping[str, Any], tier: Tier) -> None:
    """InputError for the first flag that was given in vain; `usual` are the options of a server that is given none."""
    own = given_flags(args)
    if tier == "opaque" and "drr_answer_tokens" in own:
        raise InputError("--drr-answer-tokens", "has no effect: nothing ends thinking in tier opaque")
    for name in own:
        if name not in HONOURED:
            raise InputError(flag(name), _WHY)
    for name, default in usual.items():
        if name in LISTENING or name in HONOURED or name in own:
            continue
        if getattr(args, name, default) not in (default, None, {}, []):
            raise InputError("MODEL" if name == "model_tag" else flag(name), _WHY)
