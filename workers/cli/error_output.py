"""Reports how a command fails: one sentence of what, one of why, one of what to do; and its exit status."""

from __future__ import annotations

import sys
import traceback

from rich.markup import escape

from schemas.errors import KeyrepackError
from workers.cli.output import console, to_json, wishes

FAILED, USAGE, NOT_FINISHED, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses besides 0, done: failed; wrong use; what was asked for has not finished yet; Ctrl-C."""


def tell_failure(error: BaseException) -> int:
    """Say on standard error what went wrong; the exit status. Never a traceback, unless --debug asks for one."""
    if wishes.debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        _say("interrupted", "Interrupted.")
        return INTERRUPTED
    if isinstance(error, KeyrepackError):
        _say(error.code, error.what, error.why, error.remedy)
        return FAILED
    if getattr(error, "exit_code", None) == USAGE:  # typer's, which has come in several packages
        if not str(error):  # a group without a command has printed its help
            return USAGE
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "keyrepack"
        _say("usage", _sentence(getattr(error, "format_message", error.__str__)()), "", f"See `{path} --help`.")
        return USAGE
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        _say("system", "The command failed.", f"{where}{error.strerror}.", "Mend that, then run it again.")
        return FAILED
    # R10: the text of a foreign error may hold what was in a row; its type does not.
    _say("unexpected", "The command failed.", f"{type(error).__name__}.", "Run it again with `keyrepack --debug …`.")
    return FAILED


def _say(code: str, what: str, why: str = "", remedy: str = "") -> None:
    if wishes.json:
        document = {"error": {"code": code, "what": what, "why": why, "remedy": remedy}}
        sys.stderr.write(to_json(document) + "\n")
        return
    speaker = console(error=True)
    speaker.print(f"[bold red]error:[/] {escape(what)}")
    for name, text in (("why", why), ("do", remedy)):
        if text:
            speaker.print(f"  [dim]{name}:[/] {escape(text)}")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!")) else f"{text}."
