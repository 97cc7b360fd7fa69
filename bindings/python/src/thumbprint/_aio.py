"""The same for asyncio. Every call blocks a thread of the library's own, so that a job that is waited for takes none of the app's."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from ._errors import ClosedError
from ._handles import Canceller, Conversation, Generation, PersonalizeJob
from ._judging import (
    ArenaResults,
    Choice,
    ChoiceFormat,
    ChoiceReport,
    Contest,
    Head,
    Match,
    RefusalReport,
    RewardReport,
    Score,
    Voted,
)
from ._sync import Thumbprint
from ._types import (
    AdapterDetails,
    AdapterFormat,
    AdapterId,
    AdapterPart,
    Budget,
    By,
    ConversationId,
    ConversationInfo,
    EngineOptions,
    Event,
    Exported,
    Feedback,
    FeedbackFormat,
    FeedbackId,
    FeedbackInEffect,
    Forgotten,
    GenerateOptions,
    ImportFilters,
    Imported,
    Judge,
    MatchId,
    Merged,
    Message,
    MessageId,
    ModelInfo,
    OpenReport,
    Outcome,
    Progress,
    Prompt,
    Readiness,
    Recipe,
    Reply,
    ReplyId,
    Request,
    StoredMessage,
    StrPath,
    Token,
    Verdict,
    Vote,
)

R = TypeVar("R")


class _Threads:
    """Threads by what calls on them wait for. More of a kind at once than it has threads wait for one another.

    `opened` gives what is open, opening it if need be. Each kind runs `work` with that on a thread of its own.
    """

    def __init__(self, opened: Callable[[], Thumbprint]) -> None:
        self._opened = opened
        self._closed = False
        self._waiting = ThreadPoolExecutor(32, "thumbprint")
        self._commanding = ThreadPoolExecutor(8, "thumbprint-command")
        self._storing = ThreadPoolExecutor(4, "thumbprint-store")

    async def long(self, work: Callable[[Thumbprint], R]) -> R:
        """For calls that wait for the model or for a job."""
        return await self._run(self._waiting, work)

    async def patient(self, work: Callable[[Thumbprint], R]) -> R:
        """For calls that end what others wait for, such as unloading: they do not stand in line behind them."""
        return await self._run(self._commanding, work)

    async def quick(self, work: Callable[[Thumbprint], R]) -> R:
        """For calls that take milliseconds: a thumb does not wait behind replies."""
        return await self._run(self._storing, work)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[Thumbprint], R]) -> R:
        if self._closed:
            raise ClosedError("closed", "this object was closed: open the data folder again")
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(self._opened()))

    @property
    def closed(self) -> bool:
        return self._closed

    def refuse(self) -> None:
        """Takes no more calls."""
        self._closed = True

    def end(self) -> None:
        """Lets go of the threads, once what runs on them is over."""
        for pool in (self._waiting, self._commanding, self._storing):
            pool.shutdown(wait=False)


async def _cancellable(threads: _Threads, work: Callable[[Thumbprint, Canceller], R]) -> R:
    """A call that a cancelled task ends."""
    canceller = Canceller()
    try:
        return await threads.long(lambda tp: work(tp, canceller))
    except asyncio.CancelledError:
        canceller.cancel()
        raise


async def _told(
    threads: _Threads,
    on_progress: Callable[[int, int], bool | None] | None,
    work: Callable[[Thumbprint, Callable[[int, int], bool | None]], R],
) -> R:
    """The same for a call that tells how far it is."""
    stop = threading.Event()

    def told(done: int, total: int) -> bool | None:
        if stop.is_set():
            return False
        return None if on_progress is None else on_progress(done, total)

    try:
        return await threads.long(lambda tp: work(tp, told))
    except asyncio.CancelledError:
        stop.set()
        raise


class AsyncThumbprint:
    """A data folder with its model, for asyncio. See `Thumbprint`.

    Opened by `async with`, or else at first use. A task that is cancelled while it waits for replies or for a model to
    load cancels that, too.
    """

    def __init__(
        self,
        data_dir: StrPath,
        *,
        model: StrPath | None = None,
        engine: EngineOptions | None = None,
        key: bytes | None = None,
    ) -> None:
        self._open = functools.partial(Thumbprint, data_dir, model=model, engine=engine, key=key)
        self._opened: Thumbprint | None = None
        self._lock = threading.Lock()
        self._threads = _Threads(self._sync)

    def _sync(self) -> Thumbprint:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    async def close(self) -> None:
        """Ends what runs through this object, whose calls raise `ClosedError` from now on. See `Thumbprint.close`."""
        self._threads.refuse()
        if self._opened is not None:
            # On a thread of its own: the others may all be waiting for what this ends.
            await asyncio.to_thread(self._opened.close)
        self._threads.end()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._threads.closed

    async def __aenter__(self) -> AsyncThumbprint:
        await self._threads.long(lambda tp: None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open_report(self) -> OpenReport:
        """What was found at opening: a database that was moved aside, say."""
        return await self._threads.quick(lambda tp: tp.open_report())

    # ---- the model ----

    async def load(self, model: StrPath, on_progress: Callable[[float], bool | None] | None = None) -> None:
        """Loads a model and puts its active adapter in force. `on_progress` is called on another thread."""
        stop = threading.Event()

        def listen(fraction: float) -> bool | None:
            if stop.is_set():
                return False
            return None if on_progress is None else on_progress(fraction)

        def load(tp: Thumbprint) -> None:
            # Cancelled before a thread was free, it must not disturb what was loaded since.
            if not stop.is_set():
                tp.load(model, listen)

        try:
            await self._threads.long(load)
        except asyncio.CancelledError:
            stop.set()
            raise

    async def unload(self) -> None:
        """Unloads the model; it is loaded again at the next use. A running job is paused."""
        await self._threads.patient(lambda tp: tp.unload())

    async def model_info(self) -> ModelInfo:
        """Facts of the model, which is loaded if need be."""
        return await self._threads.long(lambda tp: tp.model_info())

    async def prewarm(self, messages: Prompt) -> int:
        """Computes the beginning of a conversation ahead of time. Returns how many tokens are now kept."""
        return await self._threads.long(lambda tp: tp.prewarm(messages))

    # ---- talking ----

    def generate(
        self,
        messages: Prompt,
        options: GenerateOptions | None = None,
        *,
        replaces: ReplyId | None = None,
        by: By | AdapterId = By.ACTIVE,
    ) -> AsyncGeneration:
        """A reply that starts as soon as it is waited for: `async for event in tp.generate(...)`."""
        return AsyncGeneration(self._threads, lambda tp: tp.generate(messages, options, replaces=replaces, by=by))

    async def generate_batch(self, requests: Sequence[Request], max_parallel: int = 8) -> list[Reply]:
        """Generates several replies together, which must agree in `by`, and records them, in the order given."""
        # Let go of before it is waited for, it cancels itself.
        batch = await self._threads.long(lambda tp: tp._start_batch(requests, max_parallel))
        try:
            return await self._threads.long(lambda tp: batch.wait())
        except asyncio.CancelledError:
            batch.cancel()
            raise

    async def conversation(self, id: ConversationId | None = None) -> AsyncConversation:
        """A stored chat: a new one, or one that exists."""
        return AsyncConversation(self._threads, await self._threads.quick(lambda tp: tp.conversation(id)))

    async def conversations(self) -> list[ConversationInfo]:
        """Every stored chat, the latest used first."""
        return await self._threads.quick(lambda tp: tp.conversations())

    # ---- feedback ----

    async def record(self, reply: ReplyId | Reply, feedback: Feedback) -> FeedbackId:
        """Records what the person said about a reply. Never loads a model."""
        return await self._threads.quick(lambda tp: tp.record(reply, feedback))

    async def record_external(self, messages: Prompt, completion: str, feedback: Feedback) -> FeedbackId:
        """Records feedback on text that this library did not generate."""
        return await self._threads.quick(lambda tp: tp.record_external(messages, completion, feedback))

    async def withdraw(self, feedback: FeedbackId) -> FeedbackId:
        """Takes feedback back. The event stays in the log, without effect; `forget` erases."""
        return await self._threads.quick(lambda tp: tp.withdraw(feedback))

    async def feedback_on(self, reply: ReplyId | Reply) -> list[FeedbackInEffect]:
        """What is in effect on one reply, for showing a thumb as pressed."""
        return await self._threads.quick(lambda tp: tp.feedback_on(reply))

    async def import_feedback(
        self, path: StrPath, format: FeedbackFormat | None = None, filters: ImportFilters | None = None
    ) -> Imported:
        """Takes in feedback from a file, all of it or nothing."""
        return await self._threads.patient(lambda tp: tp.import_feedback(path, format, filters))

    async def export_feedback(self, path: StrPath, format: FeedbackFormat = FeedbackFormat.PREFERENCE) -> Exported:
        """Writes feedback in effect to a file, in a form that TRL's trainers load or in that of a data set."""
        return await self._threads.patient(lambda tp: tp.export_feedback(path, format))

    # ---- learning ----

    async def readiness(self) -> Readiness:
        """Whether there is enough feedback to learn from, and how much is missing. Never loads a model."""
        return await self._threads.quick(lambda tp: tp.readiness())

    async def personalize(self, budget: Budget | None = None, recipe: Recipe | None = None) -> AsyncPersonalizeJob:
        """Starts to learn from the log, or attaches to the job that runs, or goes on with the one that rests."""
        return AsyncPersonalizeJob(self._threads, await self._threads.quick(lambda tp: tp.personalize(budget, recipe)))

    async def current_job(self) -> AsyncPersonalizeJob | None:
        """The job that runs or is paused, if any."""
        job = await self._threads.quick(lambda tp: tp.current_job())
        return None if job is None else AsyncPersonalizeJob(self._threads, job)

    # ---- versions of the adapter ----

    async def adapters(self) -> list[AdapterDetails]:
        """Every adapter ever made, the first one first."""
        return await self._threads.quick(lambda tp: tp.adapters())

    async def adapter(self, id: AdapterId) -> AdapterDetails:
        """One adapter."""
        return await self._threads.quick(lambda tp: tp.adapter(id))

    async def activate(self, id: AdapterId) -> None:
        """Serves replies with an adapter. One that was rolled back starts a new trial."""
        await self._threads.patient(lambda tp: tp.activate(id))

    async def deactivate(self) -> None:
        """Serves the base model alone, keeping the adapter as it is."""
        await self._threads.patient(lambda tp: tp.deactivate())

    async def rollback(self) -> AdapterId | None:
        """Takes the active adapter back and serves the one before it, or the base alone (`None`)."""
        return await self._threads.patient(lambda tp: tp.rollback())

    async def export(self, id: AdapterId, path: StrPath, format: AdapterFormat = AdapterFormat.GGUF) -> None:
        """Writes an adapter at full strength: the scale that it is served at is not in it."""
        await self._threads.patient(lambda tp: tp.export(id, path, format))

    async def import_adapter(self, path: StrPath, accept_unnamed_base: bool = False) -> AdapterId:
        """Takes in an adapter's file or folder that names the model at hand as its base or, if you say so, names none."""
        return await self._threads.patient(lambda tp: tp.import_adapter(path, accept_unnamed_base))

    async def combine(self, parts: Sequence[AdapterPart], rank: int | None = None) -> AdapterId:
        """Makes an adapter that is the weighted sum of others: exactly, or the nearest one of a rank."""
        return await self._threads.patient(lambda tp: tp.combine(parts, rank))

    async def merge(self, id: AdapterId, path: StrPath, tensor_type: str | None = None) -> Merged:
        """Writes a model that needs no adapter: the base with the adapter, as it is served, in its weights."""
        return await self._threads.patient(lambda tp: tp.merge(id, path, tensor_type))

    async def record_vote(self, vote: Vote) -> Verdict:
        """Records a blind vote, and acts on the evidence: promotes the adapter, or rolls it back."""
        return await self._threads.patient(lambda tp: tp.record_vote(vote))

    # ---- what replies are worth ----

    async def score(self, reply: ReplyId | Reply, judge: Judge | AdapterId = Judge.ACTIVE) -> Score:
        """What a stored reply is worth to the person."""
        return await self._threads.long(lambda tp: tp.score(reply, judge))

    async def score_text(self, messages: Prompt, text: str, judge: Judge | AdapterId = Judge.ACTIVE) -> Score:
        """What any reply to a conversation is worth, as one that the model ended itself."""
        return await self._threads.long(lambda tp: tp.score_text(messages, text, judge))

    async def fit_head(self, l2: float | None = None) -> Head:
        """Fits a head on the feedback in effect, in the place of the one before."""
        return await _cancellable(self._threads, lambda tp, canceller: tp.fit_head(l2, canceller))

    async def head(self) -> Head | None:
        """The head of the model at hand, if one was fitted. Never loads a model."""
        return await self._threads.quick(lambda tp: tp.head())

    async def drop_head(self) -> bool:
        """Drops the head of the model at hand; whether there was one. Never loads a model."""
        return await self._threads.quick(lambda tp: tp.drop_head())

    # ---- blind side-by-sides ----

    async def side_by_side(self, messages: Prompt, contest: Contest) -> Match:
        """Two contestants answer, and what they say is recorded as a match, on sides drawn at random. Waits for both."""
        return await _cancellable(self._threads, lambda tp, canceller: tp.side_by_side(messages, contest, canceller))

    async def side_by_side_of(self, id: MatchId) -> Match:
        """A match that was recorded."""
        return await self._threads.quick(lambda tp: tp.side_by_side_of(id))

    async def open_matches(self) -> list[Match]:
        """Matches of the model at hand that nobody has voted on, the first one first. Never loads a model."""
        return await self._threads.quick(lambda tp: tp.open_matches())

    async def vote(self, match: MatchId | Match, choice: Choice) -> Voted:
        """Votes on a match, once, and tells who was on which side. Never loads a model."""
        return await self._threads.patient(lambda tp: tp.vote(match, choice))

    async def contest_due(self, share: float | None = None) -> Contest | None:
        """Whether the next prompt should be answered twice for a blind vote, and by whom. Never loads a model."""
        return await self._threads.quick(lambda tp: tp.contest_due(share))

    async def arena_results(self) -> ArenaResults:
        """What the votes on matches of the model at hand come to. Never loads a model."""
        return await self._threads.patient(lambda tp: tp.arena_results())

    # ---- files of questions ----

    async def evaluate_choices(
        self,
        path: StrPath,
        adapter: AdapterId | None = None,
        format: ChoiceFormat | None = None,
        on_progress: Callable[[int, int], bool | None] | None = None,
    ) -> ChoiceReport:
        """Asks the multiple-choice questions of a file by log-likelihood. `on_progress` is called on another thread."""
        return await _told(self._threads, on_progress, lambda tp, told: tp.evaluate_choices(path, adapter, format, told))

    async def evaluate_refusals(
        self,
        path: StrPath,
        adapter: AdapterId | None = None,
        on_progress: Callable[[int, int], bool | None] | None = None,
    ) -> RefusalReport:
        """Asks the harmless prompts of a file, and counts refusals. `on_progress` is called on another thread."""
        return await _told(self._threads, on_progress, lambda tp, told: tp.evaluate_refusals(path, adapter, told))

    async def evaluate_reward(
        self,
        path: StrPath,
        judge: Judge | AdapterId = Judge.ACTIVE,
        on_progress: Callable[[int, int], bool | None] | None = None,
    ) -> RewardReport:
        """Asks a judge which of two replies is better, for every row of a file. `on_progress` is called on another thread."""
        return await _told(self._threads, on_progress, lambda tp, told: tp.evaluate_reward(path, judge, told))

    # ---- forgetting and sleeping ----

    async def forget(
        self,
        *,
        feedback: FeedbackId | None = None,
        reply: ReplyId | Reply | None = None,
        conversation: ConversationId | None = None,
        everything: bool = False,
    ) -> Forgotten:
        """Erases an item, what quotes it and everything that was made of it. Name exactly one."""
        return await self._threads.patient(
            lambda tp: tp.forget(feedback=feedback, reply=reply, conversation=conversation, everything=everything)
        )

    async def suspend(self) -> None:
        """Pauses a job, unloads the model and releases every lock on the folder. The next call takes them again."""
        await self._threads.patient(lambda tp: tp.suspend())


class AsyncGeneration(AsyncIterator[Event]):
    """A reply that is being generated: `Token`s, with a `Done` at the end. See `Generation`."""

    def __init__(self, threads: _Threads, start: Callable[[Thumbprint], Generation]) -> None:
        self._threads = threads
        self._start = start
        self._started: Generation | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def __aiter__(self) -> AsyncGeneration:
        return self

    async def __anext__(self) -> Event:
        event = await self._step(lambda generation: next(generation, None))
        if event is None:
            raise StopAsyncIteration
        return event

    async def tokens(self) -> AsyncIterator[str]:
        """The pieces of the reply's text alone; `wait` tells the rest."""
        async for event in self:
            if isinstance(event, Token):
                yield event.text

    async def wait(self) -> Reply:
        """Waits for the complete reply. May be called again."""
        return await self._step(lambda generation: generation.wait())

    def cancel(self) -> None:
        """Stops it within one token, or one piece of the prompt. `Done` still comes. From any thread."""
        # No lock: it is held while a model is loaded. Whichever thread comes second sees what the first one set.
        self._cancelled = True
        if self._started is not None:
            self._started.cancel()

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    async def _step(self, work: Callable[[Generation], R]) -> R:
        try:
            return await self._threads.long(lambda tp: work(self._get(tp)))
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _get(self, thumbprint: Thumbprint) -> Generation:
        with self._lock:
            if self._started is None:
                self._started = self._start(thumbprint)
                if self._cancelled:
                    self._started.cancel()
            return self._started


class AsyncConversation:
    """A stored chat. See `Conversation`."""

    def __init__(self, threads: _Threads, conversation: Conversation) -> None:
        self._threads = threads
        self._sync = conversation

    @property
    def id(self) -> ConversationId:
        """Its id, to open it again."""
        return self._sync.id

    async def info(self) -> ConversationInfo:
        """Its title and when it was used."""
        return await self._threads.quick(lambda _: self._sync.info())

    async def messages(self) -> list[StoredMessage]:
        """Its turns, the first one first."""
        return await self._threads.quick(lambda _: self._sync.messages())

    async def append(self, message: Message) -> MessageId:
        """Adds a turn that is not answered: instructions at the beginning, say."""
        return await self._threads.quick(lambda _: self._sync.append(message))

    def send(self, text: str, options: GenerateOptions | None = None) -> AsyncGeneration:
        """Says something, as soon as the reply to it is waited for."""
        return AsyncGeneration(self._threads, lambda _: self._sync.send(text, options))

    def regenerate(self, options: GenerateOptions | None = None) -> AsyncGeneration:
        """Takes the last reply back and answers again, as soon as that is waited for."""
        return AsyncGeneration(self._threads, lambda _: self._sync.regenerate(options))

    async def side_by_side(self, text: str, contest: Contest) -> Match:
        """Says something, and two contestants answer side by side. Waits for both."""
        return await _cancellable(self._threads, lambda _, canceller: self._sync.side_by_side(text, contest, canceller))

    async def edit(self, text: str) -> FeedbackId:
        """Records what the person wants instead of the last reply, and goes on from that."""
        return await self._threads.quick(lambda _: self._sync.edit(text))

    async def branch(self, upto: MessageId, title: str | None = None) -> AsyncConversation:
        """A new conversation that shares the turns up to and including `upto`."""
        return AsyncConversation(self._threads, await self._threads.quick(lambda _: self._sync.branch(upto, title)))

    async def rename(self, title: str | None) -> None:
        """Gives it a title, or takes it away."""
        await self._threads.quick(lambda _: self._sync.rename(title))

    async def delete(self) -> None:
        """Deletes it. Turns that feedback rests on stay until they are forgotten."""
        await self._threads.quick(lambda _: self._sync.delete())


class AsyncPersonalizeJob:
    """A running or resting job: `async for progress in job`. See `PersonalizeJob`."""

    def __init__(self, threads: _Threads, job: PersonalizeJob) -> None:
        self._threads = threads
        self._sync = job

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._sync.progress

    async def __aiter__(self) -> AsyncIterator[Progress]:
        progress = iter(self._sync)
        while (now := await self._threads.long(lambda _: next(progress, None))) is not None:
            yield now

    async def wait(self) -> Outcome:
        """Waits until it is over or rests. Cancelling the task that waits leaves the job alone."""
        return await self._threads.long(lambda _: self._sync.wait())

    async def pause(self) -> None:
        """Rests at once, and gives its memory back. What was learned so far is kept, also if the process ends."""
        await self._threads.quick(lambda _: self._sync.pause())

    async def resume(self) -> None:
        """Goes on after a pause."""
        await self._threads.patient(lambda _: self._sync.resume())

    async def cancel(self) -> None:
        """Gives up and cleans up."""
        await self._threads.patient(lambda _: self._sync.cancel())

    @property
    def finished(self) -> bool:
        """Whether it is over for good."""
        return self._sync.finished
