"""What `drr serve` can tell before vLLM is imported: paths, addresses, contradictions."""

import argparse
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drr.checks import check_file
from drr.engine.model_source import TOKENIZER_FILES, check_model
from drr.errors import InputError
from drr.failures import in_one_sentence
from drr.judge.scorer_card import load_cards
from server.arguments import own_parser
from server.contradictions import check_flags, check_log_folder, flag
from server.dm_flags import dm_folders
from server.efforts import read_efforts
from server.trace_flags import TRACING, check_tracing
from server.vllm_flags import check_known

_FILES = ("config", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "log_config_file")
_OWN_FILES = ("drr_api_keys",)
_CODE = ("reasoning_parser_plugin", "tool_parser_plugin")
_HIGHEST_PORT = 65_535
_LONGEST_SOCKET = 107
"""Bytes of a socket's path, which the system allows."""


def check_early(argv: Sequence[str]) -> None:
    """InputError, which names the option, for whatever is known to be wrong without vLLM."""
    options = early_options(argv)
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in (*_FILES, *_OWN_FILES, *_CODE):
        if name in given and (name not in _CODE or len(given[name]) > 3):  # vLLM's own rule
            check_file(flag(name), Path(given[name]))
    if "config" in given and Path(given["config"]).suffix not in (".yaml", ".yml"):
        raise InputError("--config", f"{given['config']} must be YAML, and be called so (.yaml)")
    if "config" in given:  # may bring what the command line lacks: all is checked again when that is read
        return
    check_flags({name: value for name, value in given.items() if name in _own_names()}, dm=_has_dm(given))
    read_efforts(given.get("drr_effort_map"))
    _check_template(given.get("chat_template"))
    _check_tls(given)
    check_tracing(given)
    _check_address(given)
    _check_judges(given)
    check_log_folder(given.get("drr_decision_log"))
    for name, files in (("model", None), ("tokenizer", TOKENIZER_FILES), ("prm", None)):
        if name in given and not given.get("load_format"):
            check_model(given[name], flag(name), *([files] if files else []))


def early_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options that are looked at here; those that were not given are missing or None."""
    parser = own_parser()
    own = {text for action in parser._actions for text in action.option_strings}
    check_known(argv, own)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    named = ("model", "tokenizer", "load_format", "host", "uds", "chat_template", "ssl_ciphers")
    for name in (*named, *TRACING, *_FILES, *_CODE):
        parser.add_argument(flag(name), default=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=argparse.SUPPRESS)
    arguments = [_with_dashes(argument) for argument in argv]
    options = parser.parse_known_args(arguments)[0]
    if arguments and not arguments[0].startswith("-") and "model" not in options:
        options.model = arguments[0]
    return options


def _with_dashes(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if argument.startswith("--") else argument


def _own_names() -> set[str]:
    return {action.dest for action in own_parser()._actions}


def _has_dm(given: dict[str, Any]) -> bool:
    return "dm" in given or not (
        "model" in given or "upstream" in given
    )  # without a model the reference pair is served


def _check_template(template: str | None) -> None:
    if template is not None and not any(character in template for character in "{}\n"):
        check_file("--chat-template", Path(template))


def _check_tls(given: dict[str, Any]) -> None:
    certificate, key = given.get("ssl_certfile"), given.get("ssl_keyfile")
    if certificate is None:
        if key is not None:
            raise InputError("--ssl-keyfile", "needs --ssl-certfile")
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise InputError("--ssl-certfile", f"{certificate} and its key cannot be used: {reason}") from error
    for name, use in (("ssl_ca_certs", context.load_verify_locations), ("ssl_ciphers", context.set_ciphers)):
        try:
            if name in given:
                use(given[name])
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise InputError(flag(name), f"{given[name]} cannot be used: {reason}") from error


def _check_address(given: dict[str, Any]) -> None:
    """Whether the server will be able to listen where it should."""
    if "uds" in given:
        folder = Path(given["uds"]).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError("--uds", f"nothing can be made in {folder}")
        _check_socket(Path(given["uds"]))
        return
    host, port = given.get("host", ""), given.get("port", 8000)
    if not 0 <= port <= _HIGHEST_PORT:
        raise InputError("--port", f"must lie between 0 and {_HIGHEST_PORT}, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except socket.gaierror as error:
            raise InputError("--host", f"there is no host {host!r}: {error.strerror}") from error
        except OSError as error:
            raise _unusable(error, host, port) from error


def _check_socket(path: Path) -> None:
    """Whether the server can listen on this path."""
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise InputError("--uds", f"the path has more than the {_LONGEST_SOCKET} bytes that a socket's may have")
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_socket():
        raise InputError("--uds", f"{path} is there already, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(os.fspath(path))
        except OSError:
            reason = "is the socket of a server that has ended: remove it"
        else:
            reason = "is taken: another program listens there"
    raise InputError("--uds", f"{path} {reason}")


def _unusable(error: OSError, host: str, port: int) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError("--port", f"{port} is taken: another program listens there")
    if error.errno == errno.EACCES:
        return InputError("--port", f"{port} may not be used (permission denied): ports below 1024 are root's")
    if error.errno == errno.EADDRNOTAVAIL:
        return InputError("--host", f"{host} is no address of this machine")
    return InputError("--host", f"{host} cannot be used: {in_one_sentence(error) or error}")


def _check_judges(given: dict[str, Any]) -> None:
    dm_folders(given)
    if "drr_calibration" in given:
        if not Path(given["drr_calibration"]).is_dir():
            raise InputError("--drr-calibration", f"there is no folder {given['drr_calibration']}")
        load_cards(Path(given["drr_calibration"]))
