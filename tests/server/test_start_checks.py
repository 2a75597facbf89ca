"""What is told about a start before any model is loaded."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from drr import reference
from drr.errors import InputError
from server.start_checks import check_adapters, check_middleware, check_template

TOKENIZER = AutoTokenizer.from_pretrained(reference.reasoner_folder())


@pytest.mark.parametrize("template", ["{% if %}x{% endif %}", "{{ messages[ }}", "{% nonsense %}"])
def test_a_template_that_is_no_program_is_refused(template: str, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(f"\n{template}")
    for given, line in ((template, 1), (str(path), 2)):
        with pytest.raises(InputError, match=f"--chat-template: line {line}: "):
            check_template(Namespace(chat_template=given), TOKENIZER)


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ messages[0].content }}",
        "{% for m in messages %}{% break %}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% generation %}x{% endgeneration %}",
        "x" * 5000,
    ],
)
def test_any_program_is_taken(template: str | None) -> None:
    check_template(Namespace(chat_template=template), TOKENIZER)


def test_adapters_that_are_not_there_are_named(tmp_path: Path) -> None:
    def modules(*paths: Path) -> Namespace:
        return Namespace(lora_modules=[SimpleNamespace(name="a", path=str(path)) for path in paths])

    check_adapters(Namespace(lora_modules=None))
    with pytest.raises(InputError, match="--lora-modules: there is no folder /nowhere"):
        check_adapters(modules(Path("/nowhere")))
    with pytest.raises(InputError, match=r"--lora-modules.*adapter_config\.json"):
        check_adapters(modules(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    check_adapters(modules(tmp_path))


def test_middleware_that_cannot_be_imported_is_named() -> None:
    check_middleware(Namespace(middleware=[]))
    check_middleware(Namespace(middleware=["server.admission.middleware.Admission"]))
    for name in ("no.such.thing", "server.nothing", "alone"):
        with pytest.raises(InputError, match=f"--middleware: {name} cannot be imported"):
            check_middleware(Namespace(middleware=[name]))
