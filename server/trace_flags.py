"""What can be told of vLLM's flags about traces before vLLM is imported."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from drr.errors import InputError

TRACING = ("otlp_traces_endpoint", "collect_detailed_traces")
"""The flags, by their names in the namespace."""

_OTEL = (
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
)
_PROTOCOLS = ("grpc", "http/protobuf")
"""That vLLM can send spans by, the usual one first."""


def check_tracing(given: Mapping[str, Any]) -> None:
    """InputError where spans cannot be sent as they are to be. `given` holds the flags that were given, by their names
    in the namespace."""
    if "otlp_traces_endpoint" not in given:
        if "collect_detailed_traces" in given:
            raise InputError("--collect-detailed-traces", "needs --otlp-traces-endpoint")
        return
    if not all(map(_is_there, _OTEL)):
        packages = "opentelemetry-sdk and opentelemetry-exporter-otlp"
        raise InputError("--otlp-traces-endpoint", f"needs the packages {packages}, which are not installed")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", _PROTOCOLS[0])
    if protocol not in _PROTOCOLS:
        told = f"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be {' or '.join(_PROTOCOLS)}, not {protocol!r}"
        raise InputError("--otlp-traces-endpoint", told)


def _is_there(package: str) -> bool:
    """Whether this package can be imported."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
