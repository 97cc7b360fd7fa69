"""Errors by class. The class says what can be done, `code` names the cause and stays the same from version to version."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from . import _ffi


class ThumbprintError(Exception):
    """Why a call failed. Never holds text that a person wrote."""

    code: str
    """Stable name of the cause: "unknown_reply", "disk_full"."""
    reason: str
    """What was wrong, where, and what to do."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Errors travel between processes; extra arguments of __init__ are among the attributes.
        return (_rebuild, (type(self), self.code, self.reason, self.__dict__))


class ClosedError(ThumbprintError):
    """The object was closed before."""


class OperationCancelled(ThumbprintError):
    """It was asked for: cancelled, or the model was unloaded meanwhile."""


class ListenerError(ThumbprintError):
    """A listener failed; what it listened to was given up."""


class FolderInUseError(ThumbprintError):
    """Another process has the data folder."""

    pid: int | None = None
    """The other process, where it is known."""


class StorageError(ThumbprintError, OSError):
    """The data folder or its database: a full disk, no permission, damage, a newer version."""


class NotFoundError(ThumbprintError, LookupError):
    """What an id named is not there, or not any more."""


class InvalidInputError(ThumbprintError, ValueError):
    """What was asked for makes no sense: an empty prompt, an option out of range."""


class PromptTooLongError(InvalidInputError):
    """The prompt leaves no room for a reply."""

    prompt_tokens: int = 0
    """Tokens of the prompt."""
    n_ctx: int = 0
    """Tokens that the context holds."""


class InvalidStateError(ThumbprintError):
    """Something else has to be done first: a model named, an adapter activated."""


class ModelError(ThumbprintError):
    """The model's file cannot be used, or not for this."""


class AdapterError(ThumbprintError):
    """An adapter's file cannot be used."""


class FileError(ThumbprintError, OSError):
    """A file could not be read or written."""


class ImportFeedbackError(ThumbprintError, ValueError):
    """A line of a file of feedback cannot be used; nothing of the file was."""

    line: int = 0
    """From 1; 0 where the file itself is at fault."""


class OverBudgetError(ThumbprintError):
    """No way of training fits the memory that was allowed."""

    needed_mib: int = 0
    """MiB that would be enough."""
    budget_mib: int = 0
    """MiB that were allowed."""


class TrainingError(ThumbprintError):
    """A run of training failed; what was in use before still is."""


class InternalError(ThumbprintError):
    """A bug in this library."""


# Variants of the boundary's error whose class here has another name than the variant and "Error".
_NAMED: dict[str, type[ThumbprintError]] = {
    "Cancelled": OperationCancelled,
    "Import": ImportFeedbackError,
}


def _class_of(variant: str) -> type[ThumbprintError]:
    named = _NAMED.get(variant) or globals().get(f"{variant}Error")
    if isinstance(named, type) and issubclass(named, ThumbprintError):
        return named
    return InternalError


def _rebuild(cls: type[ThumbprintError], code: str, reason: str, attributes: dict[str, object]) -> ThumbprintError:
    error = cls(code, reason)
    error.__dict__.update(attributes)
    return error


def to_public(error: BaseException) -> ThumbprintError:
    """The public form of an error of the boundary."""
    attributes = dict(vars(error))
    code = str(attributes.pop("code", "internal"))
    reason = str(attributes.pop("reason", error))
    return _rebuild(_class_of(type(error).__name__), code, reason, attributes)


BOUNDARY = (_ffi.ThumbprintError, _ffi.InternalError)
"""What the boundary raises."""


@contextlib.contextmanager
def public_errors() -> Iterator[None]:
    """Raises errors of the boundary in their public form."""
    try:
        yield
    except BOUNDARY as error:
        raise to_public(error) from None
