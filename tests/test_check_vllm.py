"""scripts/check_vllm.py against a small vLLM made up here, whole and with one thing in it changed."""

import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "check_vllm.py"

VLLM = {
    "__init__.py": """
        import typing

        TABLE = {"Params": ".params:Params", "Output": ".outputs:Output"}
        if typing.TYPE_CHECKING:
            from vllm.params import Params

        def __getattr__(name):
            return TABLE[name]
        """,
    "_version.py": "__version__ = '0.33.0'",
    "params.py": """
        import msgspec

        class Base(msgspec.Struct):
            n: int = 1

        class Params(Base, kw_only=True):
            temperature: float = 1.0
            stop: list[str] = msgspec.field(default_factory=list)

            def clone(self) -> "Params":
                return self
        """,
    "outputs.py": """
        from dataclasses import dataclass, field

        @dataclass
        class Completion:
            text: str
            token_ids: list[int]
            reason: str | None = None
            kept: list[int] = field(init=False)

        class Output:
            def __init__(self, request_id: str, outputs: list[Completion], *, finished: bool = False):
                self.request_id = request_id
                self.outputs, self.finished = outputs, finished
        """,
    "config.py": """
        from pydantic.dataclasses import dataclass

        @dataclass
        class Config:
            max_len: int = 8
        """,
    "engine/__init__.py": "from .core import *\n",
    "engine/core.py": """
        from abc import ABC, abstractmethod
        from collections.abc import AsyncGenerator
        from vllm.config import Config
        from vllm.outputs import Output
        from vllm.params import Params

        class Client(ABC):
            @abstractmethod
            def generate(self, prompt, params, request_id, *, priority=0) -> AsyncGenerator[Output, None]: ...

        class Core:
            def __init__(self) -> None:
                self.ranks: list[int] = []

        class Engine(Client):
            def __init__(self, config: Config, log: bool) -> None:
                self.config = config
                self.core = Core()

            @classmethod
            def from_config(cls, config: Config, log: bool = False) -> "Engine":
                return cls(config, log)

            async def generate(
                self, prompt, params: Params, request_id: str, *, priority: int = 0
            ) -> AsyncGenerator[Output, None]:
                yield Output(request_id, [])

            async def health(self) -> None: ...
        """,
    "app.py": """
        import argparse
        from vllm.parser import Parser

        def set_chat(held, engine):
            held.chat = engine

        def fill(app_state, engine, args):
            app_state.engine = engine
            set_chat(app_state, engine)

        def bind(args, reuse_port: bool = True): ...

        def make_parser(parser: Parser) -> Parser:
            parser.add_argument("--port", type=int)
            return parser
        """,
    "parser.py": "import argparse\n\nclass Parser(argparse.ArgumentParser): ...\n",
}
"""Every file of the made-up package."""

OURS = {
    "engine.py": """
        import contextlib
        from collections.abc import AsyncGenerator, Callable
        from typing import Any
        from vllm import Params
        from vllm.engine import Engine
        from vllm.outputs import Completion, Output
        try:
            from vllm.old_config import Config
        except ImportError:
            from vllm.config import Config

        Generate = Callable[..., AsyncGenerator[Output, None]]

        class Thinking(Engine):
            def generate(self, prompt: Any, params: Params, request_id: str, **more: Any):  # type: ignore[override]
                own = params.clone()
                own.stop = []
                return super().generate(prompt, own, request_id, **more)

            def room(self) -> int:
                return self.config.max_len

        def start() -> Thinking:
            return Thinking.from_config(config=Config(max_len=4), log=True)

        async def last(generate: Generate) -> Completion:
            outputs = generate("hello", Params(n=2, temperature=0.5), "id")
            async with contextlib.aclosing(outputs) as stream:
                async for output in stream:
                    found = [own for own in output.outputs if own.reason is not None]
                    output.drr = found  # type: ignore[attr-defined]
            return Completion("", [*found[0].token_ids], reason="stop")
        """,
    "launch.py": """
        import argparse
        from vllm.app import bind, fill, make_parser
        from vllm.parser import Parser
        from server.engine import start

        def serve(args: argparse.Namespace) -> None:
            bind(args, reuse_port=False)
            fill(object(), start(), args)
            print(args.port, args.dm, start().room())

        def parse() -> argparse.Namespace:
            parser = make_parser(Parser(prog="drr"))
            parser.add_argument("--dm")
            return parser.parse_args()
        """,
    "border.py": """
        ENGINE = "vllm.engine.core:Engine"
        TOUCHED: tuple[Touch, ...] = (
            Touch("vllm.app:fill(app_state.chat)", "replaced"),
            Touch(f"{ENGINE}.core.ranks", "counted"),
            Touch(f"{ENGINE}.generate(prompt, params, /, priority)", "called through a field"),
            Touch("vllm.old_config:Config.max_len | vllm.config:Config.max_len", "read"),
            Touch('vllm.app:"--port"', "passed on"),
        )
        """,
}
"""Code that uses all of it."""


def dedented(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(line.removeprefix("        ") for line in lines) + "\n"


def written(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedented(text))
    return folder


def check(*arguments: object) -> tuple[int, list[str], str]:
    """The exit status, the lines printed, and what was said of errors."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout.splitlines(), done.stderr


def problems(
    folder: Path, vllm: Mapping[str, str] = VLLM, ours: Mapping[str, str] = OURS, status: int = 1
) -> list[str]:
    written(folder / "site" / "vllm", vllm)
    written(folder / "ours" / "server", ours)
    returned, lines, said = check(folder / "site", "--root", folder / "ours")
    assert returned == status, (lines, said)
    assert lines[-1].startswith("vLLM 0.33.0: ")
    assert lines[-1].endswith(f"{len(lines) - 1} problems")
    return lines[:-1]


def changed(files: Mapping[str, str], name: str, before: str, after: str) -> dict[str, str]:
    assert before in files[name]
    return {**files, name: files[name].replace(before, after)}


def line_of(name: str, text: str) -> int:
    """The line of our code on which this stands."""
    return next(number for number, line in enumerate(dedented(OURS[name]).splitlines(), 1) if text in line)


def test_a_vllm_that_fits_passes(tmp_path: Path) -> None:
    assert problems(tmp_path, status=0) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "at", "said"),
    [
        pytest.param(
            *("app.py", "reuse_port", "share_port", ("launch.py", "bind(args")),
            "vllm.app.bind: parameter reuse_port is gone",
            id="parameter",
        ),
        pytest.param(
            *(
                "app.py",
                "def fill(app_state, engine, args)",
                "def fill(app_state, engine)",
                ("launch.py", "fill(object"),
            ),
            "vllm.app.fill: takes at most 2 positional arguments, 3 are given",
            id="positional parameter",
        ),
        pytest.param(
            *("app.py", "engine, args):", "engine, args, model):", ("launch.py", "fill(object")),
            "vllm.app.fill: parameter model is required and not given",
            id="new parameter",
        ),
        pytest.param(
            *("params.py", "n: int", "count: int", ("engine.py", "Params(n=2")),
            "vllm.params.Params: parameter n is gone",
            id="inherited field of a struct",
        ),
        pytest.param(
            *("config.py", "max_len", "max_model_len", ("engine.py", "Config(max_len")),
            "vllm.config.Config: parameter max_len is gone",
            id="field of a dataclass",
        ),
        pytest.param(
            *("config.py", "max_len", "max_model_len", ("engine.py", "self.config.max_len")),
            "vllm.config.Config.max_len: is gone",
            id="attribute of an attribute of a base",
        ),
        pytest.param(
            *(
                "engine/core.py",
                "def from_config(cls, config: Config, log",
                "def from_config(cls, config: Config, debug",
            ),
            ("engine.py", "from_config("),
            "vllm.engine.core.Engine.from_config: parameter log is gone",
            id="parameter of an inherited classmethod",
        ),
        pytest.param(
            *("outputs.py", "token_ids", "tokens", ("engine.py", "token_ids")),
            "vllm.outputs.Completion.token_ids: is gone",
            id="attribute of an element",
        ),
        pytest.param(
            *("outputs.py", "self.outputs,", "self.completions,", ("engine.py", "in output.outputs")),
            "vllm.outputs.Output.outputs: is gone",
            id="attribute of what a generator gives",
        ),
        pytest.param(
            *("params.py", "stop:", "stops:", ("engine.py", "own.stop =")),
            "vllm.params.Params.stop: is gone",
            id="attribute that is set",
        ),
        pytest.param(
            *("params.py", "class Params", "class Sampling", ("engine.py", "import Params")),
            "vllm.Params: vllm has no Params",
            id="lazy name",
        ),
        pytest.param(
            *("engine/core.py", "class Engine(", "class _Engine(", ("engine.py", "import Engine")),
            "vllm.engine.Engine: vllm.engine has no Engine",
            id="name through a star import",
        ),
        pytest.param(
            *("engine/core.py", "def generate", "def stream", ("engine.py", "def generate")),
            "vllm.engine.core.Engine.generate: is gone: Thinking.generate overrides nothing",
            id="override",
        ),
        pytest.param(
            *("engine/core.py", "self, prompt, params: Params, request_id", "self, params: Params, prompt, request_id"),
            ("engine.py", "def generate"),
            "vllm.engine.core.Engine.generate: parameter params stands at another place in Thinking.generate",
            id="order of an override's parameters",
        ),
        pytest.param(
            *("app.py", '"--port"', '"--ports"', ("launch.py", "args.port")),
            "vllm's command line arguments.port: is gone",
            id="command line argument",
        ),
        pytest.param(
            *("app.py", "held.chat", "held.chats", ("border.py", "app_state.chat")),
            "vllm.app.fill(app_state.chat): does not set app_state.chat",
            id="attribute that a function sets",
        ),
        pytest.param(
            *("engine/core.py", "ranks", "engines", ("border.py", "core.ranks")),
            "vllm.engine.core.Engine.core.ranks: Engine.core has no ranks",
            id="path of a table",
        ),
        pytest.param(
            *("engine/core.py", "priority", "urgency", ("border.py", "priority")),
            "vllm.engine.core.Engine.generate(prompt, params, /, priority): parameter priority is gone",
            id="parameter in a table",
        ),
    ],
)
def test_a_change_is_found_and_named(
    tmp_path: Path, file: str, before: str, after: str, at: tuple[str, str], said: str
) -> None:
    found = problems(tmp_path, changed(VLLM, file, before, after))
    assert f"server/{at[0]}:{line_of(*at)}: {said}" in found


def test_a_module_that_is_gone_is_named(tmp_path: Path) -> None:
    found = problems(tmp_path, {name: text for name, text in VLLM.items() if name != "app.py"})
    at = f"server/launch.py:{line_of('launch.py', 'from vllm.app')}"
    assert [own for own in found if own.startswith(at)] == [
        f"{at}: vllm.app.{name}: there is no module vllm.app" for name in ("bind", "fill", "make_parser")
    ]


def test_one_of_two_places_is_enough(tmp_path: Path) -> None:
    vllm = {**VLLM, "old_config.py": VLLM["config.py"]}
    vllm = changed(vllm, "engine/core.py", "vllm.config", "vllm.old_config")
    assert problems(tmp_path, {name: text for name, text in vllm.items() if name != "config.py"}, status=0) == []


def test_neither_of_two_places(tmp_path: Path) -> None:
    found = problems(tmp_path, {name: text for name, text in VLLM.items() if name != "config.py"})
    at = f"server/engine.py:{line_of('engine.py', 'vllm.old_config')}"
    assert (
        f"{at}: vllm.old_config.Config: there is no module vllm.old_config (and vllm.config.Config is not there either)"
        in found
    )


def test_what_is_optional_may_be_gone(tmp_path: Path) -> None:
    ours = {"a.py": "import vllm\n\ntry:\n    from vllm.extra import more\nexcept ImportError:\n    more = None"}
    assert problems(tmp_path, ours=ours, status=0) == []


def test_what_is_there_for_type_checkers_only_cannot_be_imported(tmp_path: Path) -> None:
    vllm = {
        **VLLM,
        "tools.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vllm.params import Params",
    }
    ours = {"a.py": "from vllm.tools import Params"}
    assert problems(tmp_path, vllm, ours) == ["server/a.py:1: vllm.tools.Params: is there for type checkers only"]


def test_a_field_that_a_model_merely_lets_in_is_none(tmp_path: Path) -> None:
    model = """
        from pydantic import BaseModel, ConfigDict, Field
        class Delta(BaseModel):
            model_config = ConfigDict(extra="allow")
            index: int
            content: str | None = Field(None, validation_alias="text")
        """
    ours = """
        from vllm.protocol import Delta
        Delta(index=0, content="")
        Delta(index=0, text="", reasoning="")
        Delta(index=0, drr="")  # type: ignore[call-arg]
        Delta(content=None).model_dump()
        """
    assert problems(tmp_path, {**VLLM, "protocol.py": model}, {"a.py": ours}) == [
        "server/a.py:4: vllm.protocol.Delta: parameter reasoning is gone",
        "server/a.py:6: vllm.protocol.Delta: parameter index is required and not given",
    ]


def test_what_a_base_leaves_to_us_is_named(tmp_path: Path) -> None:
    health = "async def health(self) -> None: ..."
    abstract = f"@abstractmethod\n            def wake(self): ...\n\n            {health}"
    found = problems(tmp_path, changed(VLLM, "engine/core.py", health, abstract))
    at = f"server/engine.py:{line_of('engine.py', 'class Thinking')}"
    assert found == [f"{at}: vllm.engine.core.Engine.wake: is abstract, and Thinking does not define it"]


def test_a_public_method_that_nobody_calls_is_there_for_vllm_to_call(tmp_path: Path) -> None:
    ours = (
        "from vllm.engine import Engine\n\nclass Own(Engine):\n    async def health(self): ...\n    def _own(self): ..."
    )
    gone = changed(VLLM, "engine/core.py", "async def health", "async def is_healthy")
    assert problems(tmp_path, gone, {"a.py": ours}) == [
        "server/a.py:4: vllm.engine.core.Engine.health: is gone: Own.health overrides nothing"
    ]


def test_what_the_code_tests_for_first_may_be_missing(tmp_path: Path) -> None:
    ours = """
        from vllm.engine import Engine
        from vllm.outputs import Output
        class More(Output):
            extra = 1
        def asked(engine: Engine, output: Output) -> object:
            if isinstance(output, More):
                return output.extra
            return engine.sleep() if hasattr(engine, "sleep") else getattr(engine, "nap", None)
        """
    assert problems(tmp_path, ours={"a.py": ours}, status=0) == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "Touch(path())",
            "an entry must be Touch(path, reason), its path a string that can be read without running it",
        ),
        ("Touch('vllm.app:fill(')", "'vllm.app:fill(' is not a path"),
        ("Touch('vllm.app:bind.__wrapped__.x')", "what bind has cannot be seen"),
        ("Touch('vllm.gone:x | vllm.app:y')", "there is no module vllm.gone"),
        ("Touch('vllm.gone:x | vllm.app:y')", "vllm.app has no y"),
        ("Touch('vllm.app:fill(engine, /)')", "takes (app_state) first, not (engine)"),
    ],
)
def test_a_table_that_cannot_be_right(tmp_path: Path, entry: str, said: str) -> None:
    ours = {"a.py": "import vllm\n", "border.py": f"TOUCHED = ({entry},)"}
    found = problems(tmp_path, ours=ours)
    assert found
    assert all(own.startswith("server/border.py:1: ") for own in found)
    assert any(own.endswith(f": {said}") for own in found)


def test_code_for_another_version_is_left_out(tmp_path: Path) -> None:
    ours = """
        from vllm.app import bind
        def serve(args: object, new: bool) -> None:
            if new:  # vllm>=0.34
                bind(args, workers=2)
            else:  # vllm<0.33
                bind(args, sockets=2)
            bind(args, old=1)  # vllm<0.33
            bind(args, never=1)
        """
    assert problems(tmp_path, ours={"a.py": ours}) == ["server/a.py:9: vllm.app.bind: parameter never is gone"]


def test_a_wheel_is_read_as_it_is(tmp_path: Path) -> None:
    written(tmp_path / "site" / "vllm", changed(VLLM, "app.py", "reuse_port", "share_port"))
    written(tmp_path / "ours" / "server", OURS)
    wheel = tmp_path / "vllm-0.34.1-cp38-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for file in (tmp_path / "site").rglob("*.py"):
            packed.write(file, file.relative_to(tmp_path / "site"))
    status, lines, _ = check(wheel, "--root", tmp_path / "ours")
    assert status == 1
    assert "parameter reuse_port is gone" in lines[0]
    assert lines[-1].startswith("vLLM 0.34.1: ")


def test_sources_that_were_downloaded_before_are_used(tmp_path: Path) -> None:
    written(tmp_path / "kept" / "0.33.7" / "vllm", VLLM)
    written(tmp_path / "ours" / "server", OURS)
    status, lines, _ = check("0.33.7", "--cache", tmp_path / "kept", "--root", tmp_path / "ours")
    assert (status, len(lines)) == (0, 1)


def test_an_index_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    status, lines, said = check("0.33.0", "--cache", tmp_path)
    assert (status, lines) == (3, [])
    assert said == "check_vllm: the package index did not answer, and vLLM 0.33.0 has not been downloaded before\n"


def test_what_is_no_version(tmp_path: Path) -> None:
    assert check("latest", "--cache", tmp_path)[0] == 2


def test_our_code_fits_the_vllm_that_is_installed() -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    status, lines, said = check(Path(spec.origin).parent)
    assert status == 0, "\n".join([*lines, said])
