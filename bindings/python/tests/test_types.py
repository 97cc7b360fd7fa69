"""The public types say what the boundary's say, and a person can read them."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import logging
from typing import Any

import pytest

import thumbprint
from thumbprint import GenerateOptions, Message, Role, Up, _ffi, _types

PUBLIC = {name: getattr(thumbprint, name) for name in thumbprint.__all__}
# Sums, which are classes of their own or enums beside numbers here.
SUMS = {"Feedback", "Event", "Outcome", "By", "Judge", "Target"}
RECORDS = {name: cls for name, cls in PUBLIC.items() if dataclasses.is_dataclass(cls) and hasattr(_ffi, name)}
ENUMS = {
    name: cls for name, cls in PUBLIC.items() if isinstance(cls, type) and issubclass(cls, enum.Enum) and name not in SUMS
}
# What Python has otherwise.
OTHERWISE = {"Batch", "EvaluationListener", "LoadListener", "JobListener", "LogSink", "LogRecord", "LogLevel", "Options", "set_log_sink"}


def generated() -> dict[str, Any]:
    """Everything that the boundary exports."""
    module = __import__("thumbprint._ffi.thumbprint_ffi", fromlist=["__all__"])
    return {name: getattr(module, name) for name in module.__all__}


def test_nothing_of_the_boundary_is_left_out() -> None:
    here = set(PUBLIC) | OTHERWISE | SUMS | {"InternalError"}
    left_out = {name for name in generated() if name not in here and not name.endswith(("Protocol", "Impl"))}
    assert left_out == set()


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_has_the_boundarys_fields(name: str) -> None:
    parameters = list(inspect.signature(getattr(_ffi, name)).parameters)
    assert [field.name for field in dataclasses.fields(RECORDS[name])] == parameters


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_an_enum_has_the_boundarys_members(name: str) -> None:
    assert [member.name for member in ENUMS[name]] == [member.name for member in getattr(_ffi, name)]


@pytest.mark.parametrize("name", sorted(SUMS - {"By", "Judge", "Target"}))
def test_a_sum_has_a_class_for_each_variant(name: str) -> None:
    variants = {key for key in vars(getattr(_ffi, name)) if key.isupper()}
    classes = {cls.__name__ for cls in getattr(_types, name).__args__}
    assert {"".join(part.capitalize() for part in variant.split("_")) for variant in variants} == classes


@pytest.mark.parametrize("cls", ["Thumbprint", "Generation", "Conversation", "PersonalizeJob", "Canceller"])
def test_an_object_has_the_boundarys_methods(cls: str) -> None:
    # Names that Python has for it.
    python = {
        "shutdown": "close",
        "is_shut_down": "closed",
        "wait_for_reply": "wait",
        "wait_for_outcome": "wait",
        "is_finished": "finished",
        "next": "__next__",
        "next_progress": "__iter__",
        "open": "__init__",
        "start_batch": "generate_batch",
    }
    names = {name for name in vars(getattr(_ffi, cls)) if not name.startswith("_")}
    missing = {name for name in names if not hasattr(getattr(thumbprint, cls), python.get(name, name))}
    assert missing == set()


@pytest.mark.parametrize("variant", sorted(key for key, v in vars(_ffi.ThumbprintError).items() if isinstance(v, type)))
def test_an_error_of_the_boundary_has_a_class(variant: str) -> None:
    from thumbprint._errors import _class_of

    assert (_class_of(variant) is thumbprint.InternalError) == (variant == "Internal")


def test_everything_public_is_documented() -> None:
    for name, value in PUBLIC.items():
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
        if inspect.isclass(value) and not issubclass(value, (enum.Enum, Exception)):
            for member, function in inspect.getmembers(value, inspect.isfunction):
                if not member.startswith("_"):
                    assert inspect.getdoc(function), f"{name}.{member}"


def test_values_read_well_and_can_be_compared_and_kept() -> None:
    assert repr(Message.user("Hello")) == "Message(role=<Role.USER: 'user'>, content='Hello')"
    assert Up() == Up() and hash(Up()) == hash(Up())
    assert json.dumps({"role": Role.USER}) == '{"role": "user"}'
    assert str(Role.USER) == "user"
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerateOptions().seed = 1  # type: ignore[misc]


def test_the_librarys_log_goes_to_pythons() -> None:
    from thumbprint._log import _Sink

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    setattr(handler, "emit", records.append)
    logger = logging.getLogger("thumbprint")
    logger.addHandler(handler)
    try:
        record = _ffi.LogRecord(level=_ffi.LogLevel.WARN, target="thumbprint::store", text="100 % full")
        _Sink().on_log(record)
    finally:
        logger.removeHandler(handler)
    assert [(r.name, r.levelname, r.getMessage()) for r in records] == [("thumbprint.store", "WARNING", "100 % full")]


def test_version_is_the_librarys() -> None:
    assert thumbprint.__version__ == thumbprint.machine().version
