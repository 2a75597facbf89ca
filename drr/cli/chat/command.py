"""`drr chat`: a conversation in the terminal, or one question from the command line or a pipe."""

import argparse
import contextlib
import os
import sys

from rich.console import Console
from rich.text import Text

from drr.checks import check_url
from drr.cli.chat.session import MODES, Session, Wishes, parse_share
from drr.cli.chat.stream import AnswerError, ChatServer
from drr.errors import InputError
from drr.failures import FAILED


def run(options: argparse.Namespace) -> int:
    """Chat; returns the exit status. InputError for options that cannot be used, and where no server answers."""
    check_url("--url", options.url)
    wishes = _wishes(options)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    question = options.question or (None if sys.stdin.isatty() else sys.stdin.read().strip())
    if question is None and (options.full or options.save is not None):
        raise InputError(
            "--full" if options.full else "--save", "belongs to a question; in a conversation use /full and /save"
        )
    if question == "":
        raise InputError("standard input", "holds no question")
    with contextlib.closing(ChatServer(options.url, _key(options.key_env))) as server:
        session = _session(console, server, options.model, wishes)
        if question is None:
            _converse(session)
            return 0
        return _answer_one(session, question, options)


def _answer_one(session: Session, question: str, options: argparse.Namespace) -> int:
    complete = session.ask(question)
    if complete and options.full:
        session.console.print()
        complete = session.full()
    if options.save is not None:
        session.save(options.save)
    return 0 if complete else FAILED


def _wishes(options: argparse.Namespace) -> Wishes:
    if options.risk is not None and options.threshold is not None:
        raise InputError("--threshold", "contradicts --risk, which chooses a certified threshold")
    risk = None
    if options.risk is not None:
        try:
            risk = parse_share(options.risk)
        except ValueError as error:
            raise InputError("--risk", f"must be a share, as in 1%, not {options.risk!r}") from error
    if options.mode is not None and options.mode not in MODES:
        raise InputError("--mode", f"must be one of {', '.join(MODES)}, not {options.mode!r}")
    if options.attempts is not None and options.attempts < 1:
        raise InputError("--attempts", f"must be at least 1, not {options.attempts}")
    return Wishes(options.mode, risk, options.threshold, options.attempts)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return os.environ.get("DRR_API_KEY") or None
    key = os.environ.get(variable)
    if not key:
        raise InputError("--key-env", f"the environment has no {variable}")
    return key


def _session(console: Console, server: ChatServer, model: str | None, wishes: Wishes) -> Session:
    """A session with the model that is named, else with the first that the server has."""
    try:
        cards = server.models()
    except AnswerError as error:
        raise InputError("--url", str(error)) from error
    chosen = next((card for card in cards if model in (None, card["id"])), None)
    if chosen is None:
        known = ", ".join(card["id"] for card in cards[:8])
        raise InputError("--model", f"the server has no {model!r}; it has: {known}")
    told = next((card["drr"] for card in cards if isinstance(card.get("drr"), dict)), None)
    if told is None and wishes != Wishes():
        raise InputError(
            "--url", "this server tells nothing of DRR: --mode, --risk, --threshold and --attempts have no effect"
        )
    session = Session(console, server, chosen["id"], told is not None, wishes=wishes)
    if told is not None:
        session.step_rule = str(told.get("step_rule"))
        session.usual = {name: value for name, value in (told.get("settings") or {}).items() if name == "mode"}
    _introduce(session, told)
    return session


def _introduce(session: Session, told: dict[str, object] | None) -> None:
    if told is None:
        said = "this server tells nothing of DRR: its thinking is shown without scores"
    elif told.get("judge") is None:
        said = "without a judge: its thinking is shown without scores"
    else:
        said = f"judged by {told['judge']}; the margin is p_now, how likely an answer there would be right"
    session.console.print(Text(f"{session.model}, {said}", style="dim"))


def _converse(session: Session) -> None:
    """Until the user leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives the prompt a history
    session.console.print(Text("Ask something, or /help.", style="dim"))
    while True:
        try:
            line = session.console.input("\n[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            session.console.print()
            return
        if not line:
            continue
        try:
            if not line.startswith("/"):
                session.ask(line)
            elif not session.command(line):
                return
        except InputError as error:
            session.console.print(Text(str(error), style="red"))
