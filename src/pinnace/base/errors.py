"""Errors that are a person's to mend: said in one line, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """What was asked for cannot be done; the message says why, and what to do where that is known."""

    def __init__(self, message: str, *, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
