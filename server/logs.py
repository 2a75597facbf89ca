"""DRR's log lines, written as vLLM writes its own: with times, in text or in JSON, wherever vLLM's go.

What clients send and get is logged by nobody who was not told to: `--drr-log-text`.
"""

import argparse
import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from server.admission.under_way import CURRENT
from server.plan import PLAN_KEY, ResponsePlan
from server.vllm_api import VLLMClientError, configure_logging_from_args

_FORMAT = "%(levelname)s %(asctime)s %(name)s: %(message)s"
"""Where the operator keeps vLLM from setting up its logs."""

_VLLMS_REQUESTS = "vllm.entrypoints.serve.utils.request_logger"
"""vLLM's logger of `--enable-log-requests` and `--enable-log-outputs`."""

_SERVING = ("vllm.entrypoints", "vllm.renderers", "vllm.inputs")
_PARSING = ("vllm.parser", "vllm.tool_parsers", "vllm.reasoning")
"""vLLM's loggers of what reads requests, and of what reads answers. At DEBUG both write what they read."""

_ENGINE = "vllm.v1.engine.async_llm"


def set_up(args: argparse.Namespace) -> None:
    """Have vLLM set up its logs (`--logging-config`, `--log-level`), and write DRR's by the same handlers."""
    configure_logging_from_args(args)
    vllms = logging.getLogger("vllm")
    own = logging.getLogger("drr")
    if vllms.handlers:
        own.handlers, own.propagate = list(vllms.handlers), False
        own.setLevel(vllms.level)
    else:
        logging.basicConfig(format=_FORMAT)
    handlers = own.handlers or logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(named)
        handler.addFilter(_is_no_clients_mistake)
    if args.drr_log_text:
        warnings.filterwarnings("ignore", "Pydantic serializer warnings")  # of bodies with DRR's plan in them
        return
    for name in (*_SERVING, *_PARSING):
        logging.getLogger(name).setLevel(max(logging.INFO, vllms.getEffectiveLevel()))
    for handler in handlers:
        handler.addFilter(WithoutText(outputs=args.enable_log_outputs))


def _is_no_clients_mistake(record: logging.LogRecord) -> bool:
    """vLLM logs a traceback for every stream whose request was refused; the client has been told."""
    return record.exc_info is None or not isinstance(record.exc_info[1], VLLMClientError)


def named(record: logging.LogRecord) -> bool:
    """Give a record the id of the response that is being made; JSON shows it."""
    exchange = CURRENT.get()
    if exchange is not None and exchange.request_id is not None and not hasattr(record, "request_id"):
        record.request_id = exchange.request_id
    return True


class WithoutText(logging.Filter):
    """Leaves of vLLM's lines about requests and answers what is neither text nor tokens. `outputs` lets those pass that
    tell of answers, which the operator has asked for by a flag of their own."""

    def __init__(self, *, outputs: bool) -> None:
        super().__init__()
        self._outputs = outputs

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _VLLMS_REQUESTS:
            return self._shows(record)
        if isinstance(record.args, tuple):
            if record.name.startswith(_PARSING):
                record.args = tuple(_number(argument) for argument in record.args)
            elif record.name == _ENGINE and "failed" in str(record.msg):  # ids, and errors that quote the request
                record.args = tuple(_bare(argument) for argument in record.args)
        return True

    def _shows(self, record: logging.LogRecord) -> bool:
        """Whether a line of the logger of requests may be shown, once bare."""
        told = str(record.msg)
        if told.startswith("Generated response"):
            return self._outputs
        if told.startswith("Received request") and isinstance(record.args, tuple):
            record.args = tuple(_bare(argument) for argument in record.args)
            return True
        return not record.args  # the rest are bodies, prompts and ids


def _bare(argument: object) -> object:
    """What may be shown of a line's argument: ids as they are, of a request's parameters the numbers."""
    fields: tuple[str, ...] | None = getattr(argument, "__struct_fields__", None)
    if argument is None or isinstance(argument, str):
        return argument
    if fields is None:
        return f"<{type(argument).__name__}>"
    values = {name: _number(getattr(argument, name)) for name in fields}
    plan = (getattr(argument, "extra_args", None) or {}).get(PLAN_KEY)
    if isinstance(plan, ResponsePlan):
        values["drr_mode"] = plan.settings.mode
    return ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def _number(value: Any) -> Any:
    """A number as it is; of all else how much there is of it."""
    if value is None or isinstance(value, int | float):
        return value
    return f"<{len(value)}>" if isinstance(value, list | dict | set | tuple | str) else f"<{type(value).__name__}>"


def of_http(config: Mapping[str, Any]) -> dict[str, Any]:
    """uvicorn's settings of its log, with times."""
    timed = copy.deepcopy(dict(config))
    for formatter in timed.get("formatters", {}).values():
        text = formatter.get("fmt", "")
        if "%(levelprefix)s" in text and "asctime" not in text:
            formatter["fmt"] = text.replace("%(levelprefix)s", "%(levelprefix)s %(asctime)s")
    for handler in timed.get("handlers", {}).values():
        handler["filters"] = [*handler.get("filters", ()), "drr_named"]
    timed["filters"] = {**timed.get("filters", {}), "drr_named": {"()": lambda: named}}
    return timed
