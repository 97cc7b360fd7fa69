"""Feedback is recorded at once, without a model, and can be taken back or erased."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import ENGINE, SHORT
from thumbprint import (
    Down,
    Edit,
    ImportFilters,
    InvalidInputError,
    Message,
    NotFoundError,
    NothingToLearn,
    Prefer,
    Rank,
    Retry,
    Thumbprint,
    Up,
)


def test_recording_never_loads_a_model(tmp_path: Path) -> None:
    with Thumbprint(tmp_path, model="/nowhere/model.gguf") as tp:
        for feedback in (Up(), Down(), Down(["too long", "wrong"]), Edit("Better.")):
            tp.record_external([Message.user(f"About {feedback}?")], "An answer.", feedback)
        assert tp.readiness().have.events == 4


def test_a_later_verdict_takes_the_place_of_an_earlier_one_and_can_be_withdrawn(tp: Thumbprint) -> None:
    reply = tp.generate("Hello", SHORT).wait()
    up = tp.record(reply, Up())
    down = tp.record(reply.id, Down(["too short"]))
    assert down > up
    assert [(entry.id, entry.feedback) for entry in tp.feedback_on(reply)] == [(down, Down(("too short",)))]
    tp.withdraw(down)
    # The one before it had been replaced for good.
    assert tp.feedback_on(reply) == []
    assert tp.readiness().have.events == 0


def test_every_kind_of_feedback_crosses_and_comes_back(tp: Thumbprint) -> None:
    first = tp.generate("Name a colour.", SHORT).wait()
    second = tp.generate("Name a colour.", SHORT, replaces=first.id).wait()
    tp.record(first, Retry())
    tp.record(second, Edit("Blue."))
    tp.record(second, Prefer(over=first.id))
    said = [entry.feedback for entry in tp.feedback_on(second)]
    assert Edit("Blue.") in said and Prefer(first.id) in said
    third = tp.generate("Name a colour.", SHORT).wait()
    tp.record(first, Rank([third.id, second.id]))
    assert Rank((third.id, second.id)) in [entry.feedback for entry in tp.feedback_on(third)]
    assert Retry() in [entry.feedback for entry in tp.feedback_on(first)]


def test_too_little_is_told_with_both_numbers(tp: Thumbprint) -> None:
    tp.record_external("Hello", "Hi.", Up())
    readiness = tp.readiness()
    assert not readiness.is_ready
    outcome = tp.personalize().wait()
    assert isinstance(outcome, NothingToLearn)
    assert (outcome.readiness.have.events, outcome.readiness.need.events) == (1, 10)
    assert outcome.readiness == readiness


def test_what_is_forgotten_is_in_no_file(tmp_path: Path, model: Path) -> None:
    secret = "xylophone-quartz"
    folder = tmp_path / "data"
    with Thumbprint(folder, model=model, engine=ENGINE) as tp:
        kept = tp.generate("Hello", SHORT).wait()
        reply = tp.generate(f"What is a {secret}?", SHORT).wait()
        feedback = tp.record(reply, Edit(f"A {secret} is nothing."))
        forgotten = tp.forget(feedback=feedback)
        assert (forgotten.feedback, forgotten.replies) == ([feedback], [reply.id])
        with pytest.raises(NotFoundError):
            tp.record(reply, Up())
        tp.record(kept, Up())
    for path in folder.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_a_reply_a_conversation_and_everything_can_be_forgotten(tp: Thumbprint) -> None:
    reply = tp.generate("Hello", SHORT).wait()
    assert tp.forget(reply=reply).replies == [reply.id]
    chat = tp.conversation()
    answer = chat.send("Hello", SHORT).wait()
    forgotten = tp.forget(conversation=chat.id)
    assert (forgotten.replies, forgotten.messages) == ([answer.id], 2)
    tp.record_external("Hello", "Hi.", Up())
    assert len(tp.forget(everything=True).feedback) == 1
    assert tp.readiness().have.events == 0


def test_filters_of_an_import_tell_what_they_passed_over(tp: Thumbprint, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    row = '{"prompt": "Hello", "completion": "Hi.", "label": true}\n'
    long = '{"prompt": "Hello", "completion": "' + "x" * 300 + '", "label": true}\n'
    lines.write_text(row + row + long)
    imported = tp.import_feedback(lines, filters=ImportFilters(max_chars=100, duplicates=True))
    assert (imported.rows, imported.recorded) == (3, 1)
    assert imported.passed == {"duplicate": 1, "too_long": 1}
    with pytest.raises(InvalidInputError):
        tp.import_feedback(lines, filters=ImportFilters(patterns=["("]))
    assert tp.import_feedback(lines, filters=ImportFilters(patterns=["^Hi", "^x+$"])).passed == {"pattern": 3}
