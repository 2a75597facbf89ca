"""Options whose defaults stand in one place: the config that they fill."""

import argparse
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from drr.errors import InputError

Config = TypeVar("Config")


def default_of(config: type[Any], name: str) -> Any:
    """The default of a field of a config, a dataclass."""
    field = next(field for field in fields(config) if field.name == name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def add_setting(
    parser: argparse.ArgumentParser, option: str, config: type[Any], meaning: str = "", name: str = "", **options: Any
) -> None:
    """Add an option that fills the field `name` (by default the option's own) of `config`, with that field's type and,
    where the option is not given, that field's default. The namespace holds None for what is not given."""
    name = name or option.removeprefix("--").replace("-", "_")
    default = default_of(config, name)
    if isinstance(default, bool):
        options |= {"action": "store_const", "const": not default}
    else:
        shown = str(default).replace("%", "%%")
        meaning = f"{meaning}; default: {shown}" if meaning else f"default: {shown}"
        options.setdefault("type", type(default) if isinstance(default, int | float) else str)
    parser.add_argument(option, dest=name, default=None, help=meaning, **options)


def config_from(config: type[Config], options: argparse.Namespace, **more: Any) -> Config:
    """The config that the given options fill; InputError names an option out of range."""
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    return config(**{**given, **{name: value for name, value in more.items() if value is not None}})


def given(options: argparse.Namespace, name: str) -> bool:
    """Whether the user gave an option. One that turns a setting off is given, too: its value is False."""
    return getattr(options, name, None) is not None


def needed(options: argparse.Namespace, name: str, reason: str) -> None:
    """InputError with this reason unless the option was given."""
    if not given(options, name):
        raise InputError(option_name(name), reason)


_NAMES = {"rollouts_per_batch": "--batch", "balance": "--no-balance", "risks": "--risk", "questions": "questions"}


def option_name(name: str) -> str:
    """The option behind a name in the namespace."""
    return _NAMES.get(name) or f"--{name.replace('_', '-')}"
