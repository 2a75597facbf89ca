"""What README and the pages of docs/ show and say can be relied on: links lead somewhere, code is code, commands are
commands, files are there. Links to other sites are not followed: tests run without a network."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from drr.cli.options import COMMANDS, parser_of
from server.arguments import own_parser
from server.early import early_options
from tests.docs.pages import (
    PAGES,
    README,
    ROOT,
    Block,
    all_blocks,
    anchors,
    code_spans,
    commands,
    headings,
    links,
)

SHELL = all_blocks("sh", "bash")
DRR = [(block, command) for block in SHELL for command in commands(block) if re.match(r"(\.venv/bin/)?drr ", command)]
KNOWN_PROGRAMS = {
    *("make", "drr", "curl", "docker", "kubectl", "helm", "python", "python3", "bash", "vllm", "kill", "for", "done"),
    *(".venv/bin/drr", ".venv/bin/python", "cat", "cd", "echo", "export", "git", "sha256sum", "pip"),
    *("node", "npm", "open-webui"),
}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def of(blocks: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks, ids=lambda block: block.place)


def test_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 130


@every_page
def test_a_page_has_one_title_and_no_heading_twice(page: Path) -> None:
    titles = [line for line in page.read_text().splitlines() if line.startswith("# ")]
    assert titles
    twice = [name for name, count in Counter(anchors(page)).items() if count > 1]
    assert not twice, "links cannot tell them apart"
    assert headings(page)[0] == titles[0].removeprefix("# ")


@every_page
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for line, target in links(page):
        if re.match(r"https?://", target):
            continue
        name, _, place = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"line {line}: {target}"
        assert path.is_relative_to(ROOT), f"line {line}: {target}"
        if place:
            assert place in anchors(path), f"line {line}: {target}"


@of(all_blocks("json"))
def test_json_is_json(block: Block) -> None:
    try:
        json.loads(block.text)
    except ValueError:
        for line in block.text.splitlines():  # JSON lines
            json.loads(line)


@of(all_blocks("yaml"))
def test_yaml_is_yaml(block: Block) -> None:
    assert yaml.safe_load(block.text)


@of(all_blocks("python"))
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@of(all_blocks("js"))
def test_javascript_is_javascript(block: Block) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    check = [node, "--input-type=module", "--check", "-"]
    checked = subprocess.run(check, input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@of(SHELL)
def test_commands_are_of_programs_that_are_meant(block: Block) -> None:
    if "curl" in block.text:
        return  # quotation marks over several lines: test_sample.py runs it
    for command in commands(block):
        assert shlex.split(command)[0] in KNOWN_PROGRAMS, command


@pytest.mark.parametrize(("block", "command"), DRR, ids=[f"{block.place}: {command}" for block, command in DRR])
def test_drr_commands_are_taken_by_the_real_parsers(block: Block, command: str) -> None:
    _, *arguments = shlex.split(command)
    check_drr(arguments)


def check_drr(arguments: list[str]) -> None:
    """SystemExit or InputError where these are no arguments of `drr`."""
    if arguments[0] == "serve":
        early_options(arguments[1:])
        return
    name = " ".join(arguments[:2]) if " ".join(arguments[:2]) in COMMANDS else arguments[0]
    parser_of(name).parse_args(arguments[len(name.split()) :])


def test_a_wrong_command_would_be_found() -> None:
    for wrong in (["train", "--bogus"], ["distill"], ["bogus"], ["serve", "--bogus-option", "1"]):
        with pytest.raises((SystemExit, Exception)):
            check_drr(wrong)


MODULES = [
    (block, command)
    for block in SHELL
    for command in commands(block)
    if re.match(r"(\.venv/bin/)?python -m ", command) and "vllm_bench" not in command  # which hands on vLLM's options
]


@pytest.mark.parametrize(("block", "command"), MODULES, ids=[f"{block.place}: {command}" for block, command in MODULES])
def test_options_of_modules_are_in_their_sources(block: Block, command: str) -> None:
    module, *arguments = shlex.split(command)[2:]
    if module == "pytest":
        return
    path = ROOT / module.replace(".", "/")
    source = "".join(file.read_text() for file in path.parent.glob("*.py"))
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in source, option


@every_page
def test_options_that_are_named_exist(page: Path) -> None:
    """Every `--option` of DRR's that a page names, in prose or in a command."""
    known = {text for action in own_parser()._actions for text in action.option_strings}
    for line, span in code_spans(page):
        for option in re.findall(r"--(?:drr|dm|prm)[a-z-]*", span):
            assert option in known or option.endswith("-"), f"line {line}: {option}"


@every_page
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {found for _, span in code_spans(page) for found in re.findall(r"^make ([a-z-]+)", span)}
    named |= {found for block in SHELL if block.page == page for found in re.findall(r"make ([a-z-]+)", block.text)}
    assert named <= targets


@every_page
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    """`benchmarks/results/savings.json`, `server/report.py`; `python -m benchmarks.load`. Files that git ignores are
    those that a user makes."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for line, span in code_spans(page):
        for name in re.findall(r"^(?:drr|server|clients|benchmarks|tests|scripts|docs|deploy)/[\w./*-]+$", span):
            assert name in ignored or list(ROOT.glob(name.rstrip("/"))), f"line {line}: {name}"
        for module in re.findall(r"^python -m ((?:drr|server|clients|benchmarks|tests)[\w.]*)", span):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"line {line}: {module}"
