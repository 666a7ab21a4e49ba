"""`fivefold chat`: a conversation at the prompt; the history and its KV cache outlive a turn."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from fivefold import Run, UserError

from .conversation import Conversation, Turn
from .engine import Engine
from .task_configs import ChatConfig

HELP = """/reset  forget the conversation
/help   show this
/quit   end (so does Ctrl-D)
Ctrl-C  stops an answer"""


def run(config: ChatConfig, run: Run) -> None:
    """Run `fivefold chat`: read a line, stream the answer, until the input ends."""
    engine = Engine.of(run, config.rule)
    conversation = Conversation(
        engine, system=config.system, max_new_tokens=config.max_new_tokens, stop=config.stop
    )
    if run.stdout_is_tty and sys.stdin.isatty():
        run.note("Type a message; /help lists the commands.")
    talk(conversation, read_lines(run), run)


def talk(conversation: Conversation, lines: Iterator[str], run: Run) -> None:
    """Answer every line; lines that begin with `/` are commands."""
    turns = []
    for line in lines:
        text = line.strip()
        if text == "/quit":
            break
        if text == "/help":
            run.print(HELP)
        elif text == "/reset":
            conversation.reset()
            run.note("The conversation is forgotten.")
        elif text.startswith("/"):
            run.note(f"No command {text.split()[0]}; /help lists them.")
        elif text:
            turn = take_turn(conversation, text, run)
            turns += [turn] if turn else []
    run.figure("num_turns", len(turns))
    run.figure("num_new_tokens", sum(len(turn.token_ids) for turn in turns))
    run.figure("num_prefilled_tokens", sum(turn.num_prefilled for turn in turns))


def take_turn(conversation: Conversation, text: str, run: Run) -> Turn | None:
    """Stream one answer and report it; a message that does not fit is said and forgotten."""
    try:
        with interruptible() as stopped:
            for piece in conversation.answer(text, stopped):
                run.stream(piece)
    except UserError as error:
        run.note(str(error))
        return None
    finally:
        run.stream("\n")
    turn = conversation.last
    assert turn is not None
    run.note(str(turn))
    run.row(**turn.row())
    return turn


def read_lines(run: Run) -> Iterator[str]:
    """Yield what the user types, or the lines of a pipe; ends with the input."""
    if not (run.stdout_is_tty and sys.stdin.isatty()):
        yield from piped_lines(run)
        return
    from rich.console import Console

    console = Console()
    while True:
        try:
            yield console.input("[bold]you>[/bold] ")
        except EOFError:
            return
        except KeyboardInterrupt:
            run.note("\nCtrl-D or /quit ends the chat.")


def piped_lines(run: Run) -> Iterator[str]:
    """Yield the lines of a pipe as UTF-8, whatever the locale; others are named and left out."""
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None:  # a stream of text, which a program put in the place of standard input
        yield from sys.stdin
        return
    for number, line in enumerate(raw, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            run.note(f"line {number}: not UTF-8 text (byte {error.start} of the line); left out")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request that is read between steps; the second one raises.

    Yields:
        A function that says whether Ctrl-C was pressed.
    """
    pressed = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
