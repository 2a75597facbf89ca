"""What can be told about a start once vLLM has read its flags, before any model is loaded."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from drr.engine.model_source import check_model
from drr.errors import InputError, first_line

_QUESTION = [{"role": "user", "content": "1 + 1?"}]


def check_template(args: argparse.Namespace, tokenizer: Any) -> None:
    """InputError where the chat template of `--chat-template` is no program of its language."""
    template = args.chat_template
    if not template:
        return
    text = Path(template).read_text(encoding="utf-8") if _is_file(template) else template
    try:
        tokenizer.apply_chat_template(_QUESTION, chat_template=text, tokenize=False, add_generation_prompt=True)
    except TemplateSyntaxError as error:
        raise InputError("--chat-template", f"line {error.lineno}: {first_line(error)}") from error
    except (TemplateError, TypeError, ValueError):  # it may want other questions
        return


def check_adapters(args: argparse.Namespace) -> None:
    """InputError for a LoRA adapter that is not there."""
    for module in args.lora_modules or ():
        check_model(module.path, "--lora-modules", ("adapter_config.json",))


def check_middleware(args: argparse.Namespace) -> None:
    """InputError for middleware of the operator's that cannot be imported."""
    for name in args.middleware or ():
        module, _, thing = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), thing)
        except Exception as error:  # whatever the operator's code does when it is imported
            raise InputError("--middleware", f"{name} cannot be imported: {first_line(error)}") from error


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a template may be longer than a path
        return False
