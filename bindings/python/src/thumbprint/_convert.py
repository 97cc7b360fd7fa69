"""From the generated types of the boundary to the public ones, and back. Both have the same names and fields."""

from __future__ import annotations

import dataclasses
import enum
import functools
import os
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from . import _ffi, _types
from ._judging import Contest
from ._types import (
    By,
    Done,
    Down,
    Edit,
    Event,
    Feedback,
    FeedbackInEffect,
    GenerateOptions,
    Judge,
    Message,
    Outcome,
    Prefer,
    Prompt,
    Rank,
    Reply,
    Request,
    Retry,
    Token,
    Up,
)

T = TypeVar("T")

# Its sums are made without types.
_sums: Any = _ffi


def public(cls: type[T], value: Any) -> T:
    """The public form of a generated record."""
    fields = _fields(typing.cast(Any, cls))
    return cls(**{name: convert(getattr(value, name)) for name, convert in fields})


@functools.cache
def _fields(cls: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    hints = typing.get_type_hints(cls)
    return [(field.name, _converter(hints[field.name])) for field in dataclasses.fields(cls)]


def _converter(hint: Any) -> Callable[[Any], Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == Feedback:
        return feedback_public
    if hint == typing.Union[Judge, int]:
        return judge_public
    if origin in (typing.Union, types.UnionType):
        inner = _converter(next(a for a in arguments if a is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is list:
        item = _converter(arguments[0])
        return lambda values: [item(value) for value in values]
    if origin is dict:
        entry = _converter(arguments[1])
        return lambda values: {key: entry(value) for key, value in values.items()}
    if dataclasses.is_dataclass(hint):
        return functools.partial(public, typing.cast(type, hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return lambda value: hint[value.name]
    return lambda value: value


def boundary(value: Any) -> Any:
    """The generated form of a public record, enum or path, or of a sequence of them."""
    if isinstance(value, enum.Enum):
        return getattr(_ffi, type(value).__name__)[value.name]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: boundary(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return getattr(_ffi, type(value).__name__)(**fields)
    if isinstance(value, (list, tuple)):
        return [boundary(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def messages(prompt: Prompt) -> list[_ffi.Message]:
    """A prompt as the boundary has it."""
    if isinstance(prompt, str):
        prompt = Message.user(prompt)
    if isinstance(prompt, Message):
        prompt = [prompt]
    return [boundary(message) for message in prompt]


def request(request: Request) -> _ffi.Request:
    """A request as the boundary has it."""
    return _ffi.Request(
        messages=messages(request.messages),
        options=options(request.options),
        replaces=request.replaces,
        by=_by(request.by),
    )


def options(options: GenerateOptions | None) -> _ffi.GenerateOptions | None:
    """Options as the boundary has them."""
    if options is not None and isinstance(options.stop, str):
        raise TypeError("stop is a sequence of strings: write stop=[...]")
    if options is None:
        return None
    names = [field.name for field in dataclasses.fields(options) if field.name != "judge"]
    return _ffi.GenerateOptions(judge=judge(options.judge), **{name: boundary(getattr(options, name)) for name in names})


def contest(contest: Contest) -> _ffi.Contest:
    """Who is compared, as the boundary has it."""
    return _ffi.Contest(a=contest.a, b=contest.b, options=options(contest.options), seed=contest.seed)


def judge(judge: Judge | int | None) -> Any:
    """A judge as the boundary has it."""
    if judge is None:
        return None
    if isinstance(judge, Judge):
        return getattr(_sums.Judge, judge.name)()
    return _sums.Judge.ADAPTER(id=judge)


def judge_public(value: Any) -> Judge | int:
    """A judge in its public form."""
    if value.is_ADAPTER():
        return typing.cast(int, value.id)
    return Judge.ACTIVE if value.is_ACTIVE() else Judge.HEAD


def _by(by: By | int) -> Any:
    if by is By.ACTIVE:
        return _sums.By.ACTIVE()
    if by is By.BASE:
        return _sums.By.BASE()
    return _sums.By.ADAPTER(id=by)


def target(kind: str, **of: int) -> Any:
    """What to forget, as the boundary has it."""
    return getattr(_sums.Target, kind)(**of)


def feedback_boundary(feedback: Feedback) -> Any:
    """Feedback as the boundary has it."""
    match feedback:
        case Up():
            return _sums.Feedback.UP()
        case Down(reasons):
            if isinstance(reasons, str):
                raise TypeError("reasons is a sequence of strings: write reasons=[...]")
            return _sums.Feedback.DOWN(reasons=list(reasons))
        case Edit(text):
            return _sums.Feedback.EDIT(text=text)
        case Prefer(over):
            return _sums.Feedback.PREFER(over=over)
        case Rank(over):
            return _sums.Feedback.RANK(over=list(over))
        case Retry():
            return _sums.Feedback.RETRY()
    raise TypeError(f"feedback is one of Up, Down, Edit, Prefer, Rank and Retry, not {type(feedback).__name__}")


def feedback_public(value: Any) -> Feedback:
    """Feedback in its public form."""
    if value.is_UP():
        return Up()
    if value.is_DOWN():
        return Down(tuple(value.reasons))
    if value.is_EDIT():
        return Edit(value.text)
    if value.is_PREFER():
        return Prefer(value.over)
    if value.is_RANK():
        return Rank(tuple(value.over))
    return Retry()


def in_effect(values: Sequence[Any]) -> list[FeedbackInEffect]:
    """Feedback with its ids."""
    return [public(FeedbackInEffect, value) for value in values]


def event(value: Any) -> Event:
    """An event in its public form."""
    if value.is_TOKEN():
        return Token(value.text)
    return Done(public(Reply, value.reply))


def outcome(value: Any) -> Outcome:
    """An outcome in its public form: its variant's name is that of the class."""
    variant = type(value).__name__.rpartition(".")[2]
    cls = getattr(_types, "".join(part.capitalize() for part in variant.split("_")))
    return typing.cast(Outcome, public(cls, value))
