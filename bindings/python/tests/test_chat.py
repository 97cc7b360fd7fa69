"""Loading, streaming, cancelling, and stored chats."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from conftest import ENGINE, LONG, MEDIUM, SHORT
from thumbprint import (
    By,
    Done,
    EngineOptions,
    GenerateOptions,
    Message,
    OperationCancelled,
    Prefer,
    Reply,
    Request,
    Retry,
    Role,
    StopReason,
    Thumbprint,
    Token,
    Up,
)

def test_loading_tells_how_far_it_is_and_ends_at_one(tmp_path: Path, model: Path) -> None:
    heard: list[float] = []
    with Thumbprint(tmp_path) as tp:
        tp.load(model, heard.append)
        info = tp.model_info()
    assert heard == sorted(heard)
    assert len(heard) > 2 and heard[-1] == 1.0
    assert (info.architecture, info.model_path) == ("llama", str(model))


def test_a_listener_that_returns_false_cancels_loading(tp: Thumbprint, model: Path) -> None:
    with pytest.raises(OperationCancelled) as caught:
        tp.load(model, lambda fraction: False)
    assert caught.value.code == "cancelled"
    # Nothing is broken by it.
    assert tp.generate("Hello", SHORT).wait().text


def test_what_a_listener_raises_ends_loading_and_comes_out_unchanged(tp: Thumbprint, model: Path) -> None:
    class Oops(Exception):
        pass

    def listen(fraction: float) -> None:
        raise Oops("of the app")

    with pytest.raises(Oops, match="of the app"):
        tp.load(model, listen)

    def interrupt(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tp.load(model, interrupt)
    tp.load(model)


def test_a_listener_may_call_anything(tp: Thumbprint, model: Path) -> None:
    replies: list[Reply] = []

    def listen(fraction: float) -> None:
        if not replies:
            # Waits for the model that is being loaded.
            replies.append(tp.generate("Hello", SHORT).wait())

    tp.load(model, listen)
    assert replies[0].text


def test_pieces_come_in_order_and_make_up_the_reply(tp: Thumbprint) -> None:
    events = list(tp.generate("Why do cats purr?", MEDIUM))
    *tokens, done = events
    assert isinstance(done, Done)
    assert all(isinstance(token, Token) and token.text for token in tokens)
    assert "".join(token.text for token in tokens if isinstance(token, Token)) == done.reply.text
    assert len(tokens) > 20
    assert done.reply.usage.completion_tokens >= len(tokens)
    assert done.reply.tokens_per_second > 0
    assert done.reply.adapter is None


def test_the_same_seed_gives_the_same_reply_and_no_seed_another(tp: Thumbprint) -> None:
    def text(seed: int | None) -> str:
        return tp.generate("Tell me a story.", GenerateOptions(max_tokens=24, temperature=1.0, seed=seed)).wait().text

    # The prompt is not read again from here on, which rounds otherwise than reading it at once.
    text(7)
    assert text(7) == text(7)
    assert len({text(None) for _ in range(4)}) > 1


def test_options_cross_as_they_are(tp: Thumbprint) -> None:
    options = GenerateOptions(
        max_tokens=40, temperature=0.5, top_k=7, top_p=0.5, min_p=0.25, repetition_penalty=1.5, repetition_window=5, seed=2**40
    )
    sampling = tp.generate("Hello", options).wait().sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 7, 0.5, 0.25)
    assert (sampling.repetition_penalty, sampling.repetition_window, sampling.seed) == (1.5, 5, 2**40)


def test_a_stop_string_ends_the_reply_before_it(tp: Thumbprint) -> None:
    tp.generate("Count to ten.", SHORT).wait()
    whole = tp.generate("Count to ten.", SHORT).wait().text
    stop = whole[10:14]
    reply = tp.generate("Count to ten.", GenerateOptions(max_tokens=12, temperature=0, seed=1, stop=[stop])).wait()
    assert reply.stop_reason is StopReason.STOP_STRING
    assert reply.text == whole[: whole.index(stop)]


def test_cancelling_from_the_loop_ends_within_a_token_and_records_what_there_is(tp: Thumbprint) -> None:
    generation = tp.generate("Tell me a long story.", LONG)
    tokens = 0
    for event in generation:
        if isinstance(event, Token):
            tokens += 1
            generation.cancel()
    reply = generation.wait()
    assert reply.stop_reason is StopReason.CANCELLED
    assert 0 < reply.usage.completion_tokens < 100
    tp.record(reply, Up())


def test_an_exception_in_the_loop_cancels_at_the_end_of_the_block(tp: Thumbprint) -> None:
    with pytest.raises(ZeroDivisionError), tp.generate("Tell me a long story.", LONG) as generation:
        for _ in generation:
            1 / 0
    reply = generation.wait()
    assert reply.stop_reason is StopReason.CANCELLED
    assert reply.usage.completion_tokens < 100


def test_cancelling_while_the_prompt_is_read_ends_without_a_token(tmp_path: Path, model: Path) -> None:
    items = [f"item {n}" for n in range(150)]
    # In small pieces, so that some of them are read before it is cancelled and some are not.
    with Thumbprint(tmp_path / "data", model=model, engine=EngineOptions(n_ctx=1024, n_batch=32, n_threads=1)) as tp:
        tp.model_info()
        # Nothing tells how far the reading is: a moment that was too short is doubled, with another prompt.
        for n in range(10):
            generation = tp.generate(f"List number {n}: {', '.join(items)}", LONG)
            time.sleep(0.05 * 2**n)
            generation.cancel()
            assert [type(event) for event in generation] == [Done]
            assert generation.wait().stop_reason is StopReason.CANCELLED
            assert generation.wait().text == ""
            # What had been read by then is not read again; so the model's instructions, of the prompt before.
            beginning = f"List number {n}: {', '.join(items[:40])}"
            if tp.generate(beginning, GenerateOptions(max_tokens=1)).wait().usage.reused_tokens >= 96:
                return
        pytest.fail("reading never began")


def test_a_finished_generation_keeps_its_reply_and_has_no_more_events(tp: Thumbprint) -> None:
    generation = tp.generate("Hello", SHORT)
    reply = generation.wait()
    assert generation.wait() == reply
    assert list(generation) == []
    generation.cancel()
    assert generation.wait() == reply


def test_fifty_calls_at_once_are_queued(tp: Thumbprint) -> None:
    lengths: list[int] = []
    errors: list[BaseException] = []
    start = threading.Barrier(50)

    def ask(n: int) -> None:
        try:
            start.wait()
            options = GenerateOptions(max_tokens=4, temperature=0)
            reply = tp.generate(f"What is {n} plus one?", options).wait()
            tp.record(reply, Up())
            lengths.append(reply.usage.completion_tokens)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(lengths) == 50
    assert tp.readiness().have.events == 50


def test_a_batch_answers_in_the_order_of_its_requests(tp: Thumbprint) -> None:
    questions = ["What is the capital of France?", "What is the capital of Italy?", "What is the capital of Spain?"]
    replies = tp.generate_batch([Request(question, SHORT) for question in questions], max_parallel=2)
    alone = [tp.generate(question, SHORT).wait().text for question in questions]
    # Products of several rows are rounded otherwise, so a later token may differ.
    assert [reply.text[:4] for reply in replies] == [text[:4] for text in alone]
    assert len({reply.id for reply in replies}) == 3


def test_what_was_prewarmed_is_not_read_again(tp: Thumbprint) -> None:
    system = Message.system("You are a helpful assistant who knows everything about the history of tea. " * 4)
    kept = tp.prewarm([system, Message.user("When")])
    usage = tp.generate([system, Message.user("When was tea first drunk?")], SHORT).wait().usage
    assert 0 < usage.reused_tokens <= kept


def test_a_stored_chat_goes_on_after_it_is_opened_again(tmp_path: Path, model: Path) -> None:
    with Thumbprint(tmp_path, model=model, engine=ENGINE) as tp:
        chat = tp.conversation()
        chat.append(Message.system("Answer in one sentence."))
        first = chat.send("Why is the sky blue?", SHORT).wait()
        chat.rename("Sky")
        id = chat.id
    with Thumbprint(tmp_path, model=model, engine=ENGINE) as tp:
        chat = tp.conversation(id)
        assert chat.info().title == "Sky"
        chat.send("And at night?", SHORT).wait()
        roles = [turn.message.role for turn in chat.messages()]
        assert roles == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT]
        assert chat.messages()[2].reply == first.id
        assert [info.id for info in tp.conversations()] == [id]


def test_a_reply_that_was_taken_back_leaves_a_retry_and_an_edit_takes_its_place(tp: Thumbprint) -> None:
    chat = tp.conversation()
    first = chat.send("Name a colour.", SHORT).wait()
    second = chat.regenerate(GenerateOptions(max_tokens=12, temperature=1.5, seed=3)).wait()
    assert [entry.feedback for entry in tp.feedback_on(first)] == [Retry()]
    tp.record(second, Prefer(over=first.id))
    chat.edit("Blue.")
    assert chat.messages()[-1].message == Message.assistant("Blue.")

    branch = chat.branch(chat.messages()[0].id, "another")
    assert [turn.message.content for turn in branch.messages()] == ["Name a colour."]
    chat.delete()
    assert [info.id for info in tp.conversations()] == [branch.id]


def test_the_base_can_be_asked_by_name(tp: Thumbprint) -> None:
    assert tp.generate("Hello", SHORT, by=By.BASE).wait().adapter is None


def test_an_event_crosses_the_boundary_in_far_less_time_than_a_token_takes(tp: Thumbprint) -> None:
    generation = tp.generate("Tell me a long story.", MEDIUM)
    first = next(generation)
    assert isinstance(first, Token)
    # The one after it is answered once all of this one wait to be fetched.
    tp.generate("Hello", SHORT).wait()
    started = time.perf_counter()
    events = list(generation)
    per_event = (time.perf_counter() - started) / len(events)
    reply = generation.wait()
    per_token = reply.usage.decode_ms / 1000 / reply.usage.completion_tokens
    print(f"{1e6 * per_event:.0f} microseconds of {1e3 * per_token:.1f} ms a token, over {len(events)} events")
    assert per_event < per_token / 10
