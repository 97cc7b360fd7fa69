"""The same for asyncio: streams, cancelled tasks, many at once."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

import thumbprint
from conftest import ENGINE, LONG, SHORT
from thumbprint import (
    AsyncThumbprint,
    ClosedError,
    Done,
    NothingToLearn,
    OperationCancelled,
    StopReason,
    Token,
    Up,
)


def test_events_come_in_order_and_the_reply_can_be_judged(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path, model=model, engine=ENGINE) as tp:
            pieces = []
            async for event in tp.generate("Why do cats purr?", SHORT):
                if isinstance(event, Token):
                    pieces.append(event.text)
                else:
                    assert isinstance(event, Done) and event.reply.text == "".join(pieces)
                    await tp.record(event.reply, Up())
            assert (await tp.readiness()).have.events == 1
            assert "".join([piece async for piece in tp.generate("Why do cats purr?", SHORT).tokens()]) == "".join(pieces)

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_generation(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path, model=model, engine=ENGINE) as tp:
            generation = tp.generate("Tell me a long story.", LONG)
            await anext(generation)
            task = asyncio.create_task(generation.wait())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            reply = await generation.wait()
            assert reply.stop_reason is StopReason.CANCELLED

    asyncio.run(main())


def test_leaving_the_block_cancels(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path, model=model, engine=ENGINE) as tp:
            async with tp.generate("Tell me a long story.", LONG) as generation:
                await anext(generation)
            assert (await generation.wait()).stop_reason is StopReason.CANCELLED
            # Before it began, too.
            never = tp.generate("Tell me a long story.", LONG)
            never.cancel()
            assert (await never.wait()).stop_reason is StopReason.CANCELLED

    asyncio.run(main())


def test_a_cancelled_task_cancels_loading(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path) as tp:
            with pytest.raises(OperationCancelled):
                await tp.load(model, lambda fraction: False)
            loading = asyncio.create_task(tp.load(model))
            await asyncio.sleep(0)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            await tp.load(model)
            assert (await tp.model_info()).architecture == "llama"

    asyncio.run(main())


def test_fifty_tasks_at_once_are_queued(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path, model=model, engine=ENGINE) as tp:

            async def ask(n: int) -> int:
                options = thumbprint.GenerateOptions(max_tokens=4, temperature=0)
                return sum([isinstance(event, Done) async for event in tp.generate(f"What is {n} plus one?", options)])

            assert await asyncio.gather(*[ask(n) for n in range(50)]) == [1] * 50

    asyncio.run(main())


def test_a_thumb_and_a_command_do_not_wait_behind_replies(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path, model=model, engine=ENGINE) as tp:
            reply = await tp.generate("Hello", SHORT).wait()
            # More than there are threads for them.
            many = [asyncio.create_task(tp.generate(f"Tell me {n} long stories.", LONG).wait()) for n in range(40)]
            await asyncio.sleep(0.1)
            await tp.record(reply, Up())
            assert (await tp.readiness()).have.events == 1
            assert not any(task.done() for task in many), "a thumb waited for a reply"
            # It ends the ones that run, and those that wait; what had no thread yet loads the model again.
            await tp.unload()
            ended, _ = await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
            cut = [task.exception() or task.result().stop_reason is StopReason.CANCELLED for task in ended]
            assert all(cut), "unloading waited for a reply"
            for task in many:
                task.cancel()
            await asyncio.gather(*many, return_exceptions=True)

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_batch(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path, model=model, engine=ENGINE) as tp:
            requests = [thumbprint.Request("Tell me a long story.", LONG)] * 8
            task = asyncio.create_task(tp.generate_batch(requests))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # It would have taken eight times 400 tokens.
            assert (await tp.generate("Hello", SHORT).wait()).usage.first_token_ms < 20_000

    asyncio.run(main())


def test_a_stored_chat_and_a_job(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        async with AsyncThumbprint(tmp_path, model=model, engine=ENGINE) as tp:
            chat = await tp.conversation()
            await chat.send("Name a colour.", SHORT).wait()
            await chat.edit("Blue.")
            assert len(await chat.messages()) == 2
            job = await tp.personalize()
            async for progress in job:
                assert progress.total > 0
            assert isinstance(await job.wait(), NothingToLearn)
            assert job.finished

    asyncio.run(main())


def test_closing_ends_what_runs_and_every_later_call_says_so(tmp_path: Path, model: Path) -> None:
    async def main() -> None:
        tp = AsyncThumbprint(tmp_path, model=model, engine=ENGINE)
        generation = tp.generate("Tell me a long story.", LONG)
        await anext(generation)
        waiting = asyncio.create_task(generation.wait())
        await asyncio.sleep(0.05)
        await tp.close()
        await tp.close()
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await tp.readiness()
        never_opened = AsyncThumbprint(tmp_path / "other")
        await never_opened.close()
        assert not (tmp_path / "other").exists()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["Thumbprint", "Generation", "Conversation", "PersonalizeJob"])
def test_both_faces_have_the_same_methods_with_the_same_parameters(name: str) -> None:
    def methods(cls: type) -> dict[str, list[str]]:
        members = inspect.getmembers(cls, inspect.isfunction)
        return {
            # What is told to a callback there is iterated over here.
            name: [p for p in inspect.signature(member).parameters if (cls.__name__, name, p) not in left_out]
            for name, member in members
            if not name.startswith("_")
        }

    left_out = {
        ("PersonalizeJob", "wait", "on_progress"),
        # A cancelled task does it there.
        ("Thumbprint", "fit_head", "canceller"),
        ("Thumbprint", "side_by_side", "canceller"),
        ("Conversation", "side_by_side", "canceller"),
    }
    assert methods(getattr(thumbprint, name)) == methods(getattr(thumbprint, f"Async{name}"))
