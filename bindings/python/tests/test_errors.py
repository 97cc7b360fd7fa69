"""Errors by class, with codes, words and numbers; and never with what a person wrote."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SHORT
from thumbprint import (
    Edit,
    FeedbackFormat,
    FileError,
    GenerateOptions,
    ImportFeedbackError,
    InvalidInputError,
    InvalidStateError,
    ModelError,
    NotFoundError,
    Overflow,
    Prefer,
    PromptTooLongError,
    StorageError,
    Thumbprint,
    ThumbprintError,
    Up,
    estimate_memory,
    hash_file,
    machine,
    verify_model,
)

CASES: list[tuple[Callable[[Thumbprint], Any], type[ThumbprintError], str]] = [
    (lambda tp: tp.record(99, Up()), NotFoundError, "unknown_reply"),
    (lambda tp: tp.withdraw(99), NotFoundError, "unknown_feedback"),
    (lambda tp: tp.conversation(99), NotFoundError, "unknown_conversation"),
    (lambda tp: tp.adapter(99), NotFoundError, "unknown_adapter"),
    (lambda tp: tp.activate(99), NotFoundError, "unknown_adapter"),
    (lambda tp: tp.rollback(), InvalidStateError, "no_active_adapter"),
    (lambda tp: tp.conversation().regenerate(), InvalidStateError, "nothing_to_regenerate"),
    (lambda tp: tp.conversation().edit("x"), InvalidStateError, "nothing_to_edit"),
    (lambda tp: tp.generate([]), InvalidInputError, "empty_prompt"),
    (lambda tp: tp.conversation().send("  "), InvalidInputError, "empty_prompt"),
    (lambda tp: tp.generate("Hello", GenerateOptions(max_tokens=0)), InvalidInputError, "invalid_option"),
    (lambda tp: tp.generate("Hello", GenerateOptions(top_p=2.0)), InvalidInputError, "invalid_option"),
    (lambda tp: tp.record_external("Hello", "", Up()), InvalidInputError, "empty_text"),
    (lambda tp: tp.load("/nowhere/model.gguf"), ModelError, "model_file"),
    (lambda tp: tp.export_feedback("/nowhere/out.jsonl"), FileError, "file"),
    (lambda tp: tp.import_feedback("/nowhere/in.jsonl"), ImportFeedbackError, "import"),
]


@pytest.mark.parametrize(("call", "cls", "code"), CASES, ids=[f"{n}-{case[2]}" for n, case in enumerate(CASES)])
def test_an_error_has_its_class_and_code(
    tp: Thumbprint, call: Callable[[Thumbprint], Any], cls: type[ThumbprintError], code: str
) -> None:
    with pytest.raises(ThumbprintError) as caught:
        call(tp)
    error = caught.value
    assert (type(error), error.code) == (cls, code)
    assert str(error) == error.reason and error.reason


def test_classes_are_those_that_python_has_for_it() -> None:
    assert issubclass(NotFoundError, LookupError)
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(PromptTooLongError, InvalidInputError)
    assert issubclass(StorageError, OSError)


def test_a_prompt_that_is_too_long_tells_both_numbers(tp: Thumbprint) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        tp.generate("word " * 2000)
    assert caught.value.n_ctx == 1024
    assert caught.value.prompt_tokens > 2000


def test_an_overflow_that_is_allowed_drops_old_turns(tp: Thumbprint) -> None:
    chat = tp.conversation()
    for n in range(3):
        chat.send(f"{n} " + "word " * 300, SHORT).wait()
    with pytest.raises(PromptTooLongError):
        chat.send("word " * 300, SHORT)
    options = GenerateOptions(max_tokens=12, overflow=Overflow.TRUNCATE_OLDEST_TURNS)
    assert chat.send("word " * 300, options).wait().dropped_messages > 0


def test_a_model_that_was_never_named(tmp_path: Path) -> None:
    with Thumbprint(tmp_path) as tp, pytest.raises(InvalidStateError) as caught:
        tp.generate("Hello")
    assert caught.value.code == "no_model"


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        Thumbprint(tmp_path / "file")
    assert "file" in caught.value.reason


def test_a_download_that_was_cut_short(tmp_path: Path, model: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:1_000_000])
    verify_model(model, hash_file(model))
    verify_model(model, hash_file(model).upper())
    with pytest.raises(ModelError) as caught:
        verify_model(cut, hash_file(model))
    assert caught.value.code == "wrong_hash"
    with Thumbprint(tmp_path / "data", model=cut) as tp, pytest.raises(ModelError):
        tp.generate("Hello")


def test_no_error_quotes_what_a_person_wrote(tp: Thumbprint) -> None:
    secret = "my-secret-words"
    reply = tp.generate("Hello", SHORT).wait()
    other = tp.generate(secret, SHORT).wait()
    attempts: list[Callable[[], Any]] = [
        lambda: tp.generate(f"{secret} " * 2000),
        lambda: tp.record(reply, Prefer(over=other.id)),
        lambda: tp.record(reply, Edit(" ")),
    ]
    for attempt in attempts:
        with pytest.raises(ThumbprintError) as caught:
            attempt()
        assert secret not in str(caught.value)


def test_a_line_that_cannot_be_used_is_named_and_nothing_is_taken_in(tp: Thumbprint, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    good = '{"prompt": "Hello", "completion": "Hi.", "label": true}'
    lines.write_text(f"{good}\nnot json\n")
    with pytest.raises(ImportFeedbackError) as caught:
        tp.import_feedback(lines)
    assert caught.value.line == 2
    assert tp.readiness().have.events == 0


def test_an_error_travels_between_processes(tp: Thumbprint) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        tp.generate("word " * 2000)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.code, copy.reason) == (PromptTooLongError, caught.value.code, caught.value.reason)
    assert copy.prompt_tokens == caught.value.prompt_tokens


def test_what_is_no_argument_is_told_by_python(tp: Thumbprint) -> None:
    with pytest.raises(TypeError, match="exactly one"):
        tp.forget()
    with pytest.raises(TypeError, match="exactly one"):
        tp.forget(reply=1, everything=True)
    with pytest.raises(TypeError, match="stop"):
        tp.generate("Hello", GenerateOptions(stop="end"))
    with pytest.raises(TypeError, match="Up, Down"):
        tp.record(1, "up")  # type: ignore[arg-type]


def test_the_machine_and_the_memory_are_told_without_loading(model: Path, tmp_path: Path) -> None:
    here = machine()
    assert any(device.kind == "cpu" for device in here.devices)
    assert "llama" in here.trainable_architectures
    estimate = estimate_memory(model, n_ctx=1024, example_tokens=512)
    # 30 blocks of 3 heads of 64, keys and values, two bytes each.
    assert estimate.inference.cache == 30 * 3 * 128 * 1024 * 2
    assert estimate.training is not None
    assert estimate.training.least < estimate.training.full_speed
    assert estimate.inference.total > estimate.inference.weights
    with pytest.raises(ModelError):
        estimate_memory(tmp_path / "absent.gguf")


def test_under_a_key_nothing_can_be_read_without_it_or_the_build_says_that_it_cannot_encrypt(tmp_path: Path) -> None:
    key = bytes(range(32))
    with pytest.raises(InvalidInputError) as wrong_length:
        Thumbprint(tmp_path, key=b"short")
    assert wrong_length.value.code == "key_length"
    if not machine().encrypts:
        with pytest.raises(StorageError) as cannot:
            Thumbprint(tmp_path, key=key)
        assert cannot.value.code == "cannot_encrypt"
        return
    with Thumbprint(tmp_path, key=key) as tp:
        tp.record_external("xylophone", "quartz", Up())
    assert all(b"quartz" not in path.read_bytes() for path in tmp_path.iterdir())
    for other, code in ((bytes(32), "wrong_key"), (None, "key_needed")):
        with pytest.raises(StorageError) as refused:
            Thumbprint(tmp_path, key=other)
        assert refused.value.code == code


def test_feedback_leaves_in_the_forms_of_trl(tp: Thumbprint, tmp_path: Path) -> None:
    tp.record_external("Hello", "Hi.", Up())
    out = tmp_path / "out.jsonl"
    assert tp.export_feedback(out, FeedbackFormat.UNPAIRED).lines == 1
    assert '"label":true' in out.read_text().replace(" ", "")
    with Thumbprint(tmp_path / "other") as other:
        assert other.import_feedback(out).recorded == 1
        assert other.import_feedback(out).known == 1
