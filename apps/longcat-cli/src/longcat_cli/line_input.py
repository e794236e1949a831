"""Reading what a person types: editing, history, pasted lines, completion of commands."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

COMMANDS = {
    "/help": "this list",
    "/reset": "forget the conversation; in a world, go to another task",
    "/save": "write the conversation as JSON: /save FILE",
    "/quit": "leave (so does end of input)",
}


def is_command(text: str) -> bool:
    """Whether a line is one of ours: `/etc/passwd is what?` is a question."""
    return text.split(" ", 1)[0].strip() in COMMANDS


def is_mistyped(text: str) -> bool:
    """Whether a line is a single word that can only have been meant as a command.

    >>> is_mistyped("/rest"), is_mistyped("/nonsense"), is_mistyped("/etc/passwd")
    (True, True, False)
    """
    word = text.strip().lower()
    if is_command(text) or not word.startswith("/") or len(word.split()) != 1 or "/" in word[1:]:
        return False
    return bool(re.fullmatch("/[a-z]+", word) or get_close_matches(word, COMMANDS, n=1))


def help_text() -> str:
    """The commands, a line each."""
    return "\n".join(f"{name:12} {about}" for name, about in COMMANDS.items())


class LineInput:
    """Asks for lines in a terminal; what is pasted comes as one text."""

    def __init__(self, history: Path | None = None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        kept: Any = InMemoryHistory()
        if history is not None:
            try:
                history.parent.mkdir(parents=True, exist_ok=True)
                history.touch(mode=0o600)
                kept = FileHistory(str(history))
            except OSError:
                pass  # a home that cannot be written: history lasts as long as the talk
        self._session: Any = PromptSession(
            history=kept,
            completer=WordCompleter(list(COMMANDS), meta_dict=COMMANDS, sentence=True),
            complete_while_typing=False,
        )

    def ask(self, label: str = "you ", hint: str = "") -> str | None:
        """One text; `None` at the end of input or at Ctrl-C."""
        try:
            return str(self._session.prompt(_label(label, hint))).strip()
        except (EOFError, KeyboardInterrupt):
            return None


def _label(label: str, hint: str) -> str:
    return f"{label}({hint}) " if hint else label


def history_file() -> Path | None:
    """Where lines are kept between talks; `None` for somebody without a home."""
    try:
        return Path.home() / ".local" / "state" / "longcat" / "history"
    except RuntimeError:
        return None
