"""`drr chat` against a server that plays recorded answers and what goes wrong."""

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from drr.cli.chat.session import HELP, Session, Wishes, parse_share
from drr.cli.chat.steps import StepTexts
from drr.cli.chat.stream import AnswerError, ChatServer, Event
from drr.cli.chat.trace import Run
from drr.cli.chat.view import ResponseView, colour
from drr.cli.main import main
from drr.errors import InputError
from tests.local_http import served
from tests.playground.scripted import KEY, MODEL, examples, make_app, recorded


async def chat(*arguments: str, **options: bool) -> tuple[int, Any]:
    """The exit status of the command, and the app that it asked."""
    app = make_app(**options)
    async with served(app) as url:
        status = await asyncio.to_thread(main, ["chat", "--url", f"{url}/v1", *arguments])
    return status, app


async def test_one_question_shows_scores_the_cut_the_answer_and_the_account(capsys: pytest.CaptureFixture[str]) -> None:
    status, app = await chat("stop early, please", "--risk", "1%", "--attempts", "2")
    said = capsys.readouterr().out
    assert status == 0
    steps = [value for kind, value in ((kind, value) for _, kind, value in recorded(0, "drr")) if kind == "step"]
    scores = re.findall(r"^ *(\d\.\d\d) ▎ \S", said, re.MULTILINE)
    assert scores == [f"{step['p_now']:.2f}" for step in steps]
    assert "── stopped here ──" in said
    assert "The answer is" in said
    assert re.search(r"^sure, \d+ thinking tokens, \d+ thrown away, \d+\.\d s$", said, re.MULTILINE)
    assert "\x1b" not in said, "no terminal, no colours"
    (body,) = app.state.asked
    assert body["drr"] == {"mode": "auto", "max_lost_correct": 0.01, "max_rethinks": 1, "report": "steps"}


async def test_full_thinking_is_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "trace.json"
    status, app = await chat("stop early, please", "--threshold", "0.9", "--full", "--save", str(saved))
    said = capsys.readouterr().out
    assert status == 0
    spent, total = (
        next(value["completion_tokens"] for _, kind, value in recorded(0, name) if kind == "usage")
        for name in ("drr", "full")
    )
    assert f"Full thinking took {total - spent} more tokens in all ({total} and {spent})" in said
    assert said.count("the judge would stop here") == 1
    first, second = app.state.asked
    assert first["seed"] == second["seed"]
    assert first["drr"] == {"mode": "auto", "threshold": 0.9, "report": "steps"}
    assert second["drr"] == {"mode": "shadow", "report": "steps", "threshold": 0.9}
    trace = json.loads(saved.read_text())
    assert [run["name"] for run in trace["runs"]] == ["drr", "full"]
    kinds = [[kind for _, kind, _ in run["events"]] for run in trace["runs"]]
    assert kinds == [[kind for _, kind, _ in run["events"]] for run in examples()[0]["runs"]]


async def test_rejected_attempts_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert (await chat("rethink this"))[0] == 0
    said = capsys.readouterr().out
    assert said.count("this attempt is rejected") == 1
    assert "attempt 2" in said
    assert "[this attempt was rejected" not in said


@pytest.mark.parametrize(
    ("arguments", "options", "status", "told"),
    [
        (["bad"], {}, 1, "The server answered 400: drr.threshold: Input should be less than"),
        (["busy"], {}, 1, "The server is busy (429): The server has as many requests"),
        (["cut"], {}, 1, "The stream broke off before its end"),
        (["failing"], {}, 1, "The server ended the stream: The response took longer than 5 seconds."),
    ],
)
async def test_what_goes_wrong_is_one_sentence(
    arguments: list[str], options: dict[str, bool], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await chat(*arguments, **options))[0] == status
    lines = [line for line in capsys.readouterr().out.splitlines() if told[:20] in line]
    assert len(lines) == 1
    assert lines[0].startswith(told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["?", "--risk", "7"], "--risk: must be a share, as in 1%, not '7'"),
        (["?", "--risk", "1%", "--threshold", "0.9"], "--threshold: contradicts --risk"),
        (["?", "--mode", "fast"], "--mode: must be one of auto, off,"),
        (["?", "--attempts", "0"], "--attempts: must be at least 1"),
        (["?", "--key-env", "NO_SUCH_KEY"], "--key-env: the environment has no NO_SUCH_KEY"),
        (["?", "--model", "gpt-9"], f"--model: the server has no 'gpt-9'; it has: {MODEL}"),
    ],
)
async def test_options_that_cannot_be_used_are_named(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await chat(*arguments))[0] == 2
    said = capsys.readouterr().err
    assert said.startswith(f"drr chat: {told}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://nowhere.invalid/v1"])
def test_a_server_that_is_not_there_is_one_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "hello", "--url", url]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"drr chat: --url: the server at {url} cannot be reached")
    assert said.count("\n") == 1


async def test_the_key_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await chat("stop", needs_key=True))[0] == 2
    assert "wants a key (401)" in capsys.readouterr().err
    monkeypatch.setenv("SOME_KEY", KEY)
    assert (await chat("stop", "--key-env", "SOME_KEY", needs_key=True))[0] == 0
    monkeypatch.setenv("DRR_API_KEY", KEY)
    assert (await chat("stop", needs_key=True))[0] == 0
    assert KEY not in capsys.readouterr().out


async def test_a_server_without_drr_is_asked_nothing_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    status, app = await chat("plain question", knows_drr=False)
    said = capsys.readouterr().out
    assert status == 0
    assert "tells nothing of DRR" in said
    assert "Two and two." in said
    assert "Four." in said
    assert "drr" not in app.state.asked[0]
    assert (await chat("plain question", "--risk", "1%", knows_drr=False))[0] == 2
    assert "--risk" in capsys.readouterr().err
    assert (await chat("plain question", judged=False))[0] == 0
    assert "without a judge" in capsys.readouterr().out


async def test_a_question_may_come_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("stop early,\nplease\n"))
    status, app = await chat()
    assert status == 0
    assert app.state.asked[0]["messages"] == [{"role": "user", "content": "stop early,\nplease"}]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert (await chat())[0] == 2
    assert "holds no question" in capsys.readouterr().err


def session(handler: Any, *, knows_drr: bool = True) -> tuple[Session, Console]:
    console = Console(width=100, force_terminal=False, file=io.StringIO())
    server = ChatServer("http://server/v1", transport=httpx.MockTransport(handler))
    return Session(console, server, MODEL, knows_drr), console


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def answering(texts: list[str], asked: list[Any]) -> Any:
    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))

    return handle


def test_a_conversation_remembers_until_it_is_told_not_to() -> None:
    asked: list[Any] = []
    talking, _ = session(answering(["Four", "."], asked))
    talking.ask("2+2?")
    talking.ask("Sure?")
    assert talking.command("/new")
    talking.ask("3+3?")
    assert [[message["content"] for message in body["messages"]] for body in asked] == [
        ["2+2?"],
        ["2+2?", "Four.", "Sure?"],
        ["3+3?"],
    ]


def test_commands_change_what_is_asked_for() -> None:
    talking, console = session(answering([], []))
    for line in ("/risk 1%", "/mode stop", "/attempts 3"):
        assert talking.command(line)
    assert talking.wishes == Wishes("stop", 0.01, None, 3)
    assert talking.command("/threshold 0.9")
    assert talking.wishes == Wishes("stop", None, 0.9, 3), "a threshold takes the place of a risk"
    for line in ("/threshold off", "/attempts off"):
        talking.command(line)
    assert talking.wishes.drr() == {"mode": "stop", "report": "steps"}
    assert "Asked for: mode stop." in printed(console)
    assert not talking.command("/quit")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/risk much", "/risk: must be a share, as in 1%, not 'much'"),
        ("/risk", "/risk: must be a share"),
        ("/threshold 2", "/threshold: must be between 0 and 1"),
        ("/attempts 0", "/attempts: must be from 1 to 64"),
        ("/mode fast", "/mode: must be one of auto, off"),
        ("/full", "/full: there is no question yet"),
        ("/save x.json", "/save: there is nothing to save yet"),
        ("/dance", "/dance: is no command; /help lists them"),
    ],
)
def test_commands_that_cannot_be_done_say_why(line: str, told: str) -> None:
    talking, _ = session(answering([], []))
    with pytest.raises(InputError) as error:
        talking.command(line)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("name", sorted({*re.findall(r"^(/\w+)", HELP, re.MULTILINE)} - {"/quit", "/save", "/full"}))
def test_every_command_of_the_help_is_one(name: str) -> None:
    arguments = {"/risk": " off", "/threshold": " off", "/attempts": " 2", "/mode": " auto"}
    talking, console = session(answering(["x"], []))
    assert talking.command(name + arguments.get(name, ""))
    talking.command("/help")
    assert HELP in printed(console)


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    talking, _ = session(answering(["Four."], []))
    talking.ask("2+2?")
    talking.save(tmp_path / "trace.json")
    with pytest.raises(InputError, match="is there already"):
        talking.save(tmp_path / "trace.json")


def test_ctrl_c_stops_the_answer_and_not_the_conversation() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        def body() -> Any:
            yield b'data: {"choices": [{"index": 0, "delta": {"reasoning": "Let me see."}}]}\n\n'
            raise KeyboardInterrupt

        return httpx.Response(200, content=body())

    talking, console = session(handle)
    assert not talking.ask("2+2?")
    assert "Let me see." in printed(console)
    assert "Stopped" in printed(console)


def test_a_terminal_shows_the_step_in_progress_and_colours() -> None:
    console = Console(width=80, force_terminal=True, color_system="truecolor", file=io.StringIO())
    run = Run("drr", {})
    with ResponseView(console, run, acts=True) as view:
        view.feed(Event(1, "reasoning", "2 + 2"))
        view._live.refresh()  # type: ignore[union-attr]
        assert "2 + 2" in printed(console)
        view.feed(Event(2, "step", {"attempt": 0, "index": 0, "tokens": 4, "p_now": 0.0, "verdict": "continue"}))
        view.feed(Event(3, "reasoning", " is 4.\n\nSo"))
    assert "38;2;217;151;58" in printed(console), "amber for a p_now of 0"
    assert run.text("reasoning") == "2 + 2 is 4.\n\nSo"


def test_a_long_step_shows_its_end_while_it_comes() -> None:
    console = Console(width=40, height=12, force_terminal=True, file=io.StringIO())
    run = Run("drr", {})
    with ResponseView(console, run, acts=True) as view:
        for number in range(200):
            view.feed(Event(number, "reasoning", f"line {number}\n"))
        view._live.refresh()  # type: ignore[union-attr]
        live = printed(console)
        assert "line 199" in live
        assert "line 3\n" not in live
    assert all(f"line {number}" in printed(console) for number in (0, 3, 199)), "all of it is kept in the end"


def test_colours_go_from_amber_to_teal() -> None:
    assert (colour(0.0), colour(1.0), colour(None)) == ("#d9973a", "#26b094", "bright_black")


@pytest.mark.parametrize(
    ("rule", "events", "texts"),
    [
        ("blank_line", ["a.", 0, "\n\nb"], ["a.\n\n"]),
        ("blank_line", ["a.\n\n", 0, "b"], ["a.\n\n"]),
        ("blank_line", ["a.\n", 0, "\nb.\n\n", 1, "c"], ["a.\n\n", "b.\n\n"]),
        ("blank_line", [0, 1, "a.\n\nb.\n\n"], ["a.\n\n", "b.\n\n"]),
        ("line", ["a.\n", 0, "b"], ["a.\n"]),
        ("sentence", ["One", 0, ". Two"], ["One. "]),
        ("tokens:8", ["some text", 0, " and more", 1], ["some text", " and more"]),
        ("blank_line", ["a", 0], ["a"]),
        ("blank_line", [0, 1], ["", ""]),
    ],
)
def test_where_steps_end(rule: str, events: list[Any], texts: list[str]) -> None:
    steps, found = StepTexts(rule), []
    for event in events:
        closed = steps.add_text(event) if isinstance(event, str) else steps.add_step({"index": event})
        found += [step.text for step in closed]
    assert found + [step.text for step in steps.finish()] == texts


def test_shares() -> None:
    assert (parse_share("1%"), parse_share(" 0.5 "), parse_share("2.5 %")) == (0.01, 0.5, 0.025)
    for text in ("0", "100%", "-1%", "x", "", "nan"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_share(text)


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (httpx.Response(200, text="<html>"), "is not JSON"),
        (httpx.Response(200, json={"data": []}), "tells of no model"),
        (httpx.Response(200, json=[1]), "tells of no model"),
        (httpx.Response(404, text="nothing"), "nothing is at http://server/v1 (404)"),
        (httpx.Response(500, json={"error": "it broke"}), "the server answered 500: it broke"),
    ],
)
def test_what_is_no_api_is_said_to_be_none(response: httpx.Response, told: str) -> None:
    server = ChatServer("http://server/v1", transport=httpx.MockTransport(lambda request: response))
    with pytest.raises(AnswerError) as error:
        server.models()
    assert told in str(error.value)
