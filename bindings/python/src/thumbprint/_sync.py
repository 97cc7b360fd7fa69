"""The library as Python writes it: iterators, context managers, exceptions."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from . import _convert, _ffi
from ._errors import public_errors
from ._handles import Batch, Canceller, Conversation, Generation, PersonalizeJob, canceller_boundary
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
    Machine,
    MatchId,
    MemoryEstimate,
    Merged,
    ModelInfo,
    OpenReport,
    Prompt,
    Readiness,
    Recipe,
    Reply,
    ReplyId,
    Request,
    StrPath,
    Verdict,
    Vote,
)


class Thumbprint:
    """A data folder with its model.

    May be used from any thread; calls from many at once are queued. Opening the same folder again in one process gives
    the same instance; another process gets `FolderInUseError`. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        data_dir: StrPath,
        *,
        model: StrPath | None = None,
        engine: EngineOptions | None = None,
        key: bytes | None = None,
    ) -> None:
        """Opens a data folder, which is made if it is missing. `model` is loaded at first use, or by `load`.

        Under a `key` of 32 random bytes the database is encrypted, in builds where `machine().encrypts`; once there is
        one, it opens under its key alone.
        """
        options = _ffi.Options(
            data_dir=os.fspath(data_dir),
            model=None if model is None else os.fspath(model),
            engine=_convert.boundary(engine),
            key=key,
        )
        with public_errors():
            self._inner = _ffi.Thumbprint.open(options)
        # Also at the end of the process.
        self._finalizer = weakref.finalize(self, self._inner.shutdown)

    def close(self) -> None:
        """Ends what runs through this object, whose calls raise `ClosedError` from now on.

        The last one to close a folder also pauses its job, unloads the model and releases every lock. May be called
        from any thread, and again: it returns when that is done, whoever has begun it.
        """
        # Not by calling the finalizer, which a second caller would not wait for.
        self._inner.shutdown()
        self._finalizer.detach()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._inner.is_shut_down()

    def __enter__(self) -> Thumbprint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open_report(self) -> OpenReport:
        """What was found at opening: a database that was moved aside, say."""
        with public_errors():
            return _convert.public(OpenReport, self._inner.open_report())

    # ---- the model ----

    def load(self, model: StrPath, on_progress: Callable[[float], bool | None] | None = None) -> None:
        """Loads a model and puts its active adapter in force.

        `on_progress` is called with 0.0 to 1.0. If it returns False, loading ends with `OperationCancelled`; what it
        raises ends loading, too, and is raised here.
        """
        listener = _LoadListener(on_progress)
        try:
            with public_errors():
                self._inner.load(os.fspath(model), listener)
        finally:
            if listener.raised is not None:
                raise listener.raised

    def unload(self) -> None:
        """Unloads the model; it is loaded again at the next use. A running job is paused."""
        with public_errors():
            self._inner.unload()

    def model_info(self) -> ModelInfo:
        """Facts of the model, which is loaded if need be."""
        with public_errors():
            return _convert.public(ModelInfo, self._inner.model_info())

    def prewarm(self, messages: Prompt) -> int:
        """Computes the beginning of a conversation ahead of time, so that the next reply to it begins sooner.

        Returns how many tokens are now kept.
        """
        with public_errors():
            return self._inner.prewarm(_convert.messages(messages))

    # ---- talking ----

    def generate(
        self,
        messages: Prompt,
        options: GenerateOptions | None = None,
        *,
        replaces: ReplyId | None = None,
        by: By | AdapterId = By.ACTIVE,
    ) -> Generation:
        """Starts a reply. `replaces` names the reply whose place it takes, where the person pressed retry."""
        request = _convert.request(Request(messages, options, replaces, by))
        with public_errors():
            return Generation(self._inner.generate(request), self)

    def generate_batch(self, requests: Sequence[Request], max_parallel: int = 8) -> list[Reply]:
        """Generates several replies together, which must agree in `by`, and records them, in the order given."""
        return self._start_batch(requests, max_parallel).wait()

    def _start_batch(self, requests: Sequence[Request], max_parallel: int) -> Batch:
        with public_errors():
            return Batch(self._inner.start_batch([_convert.request(request) for request in requests], max_parallel))

    def conversation(self, id: ConversationId | None = None) -> Conversation:
        """A stored chat: a new one, or one that exists."""
        with public_errors():
            return Conversation(self._inner.conversation(id), self)

    def conversations(self) -> list[ConversationInfo]:
        """Every stored chat, the latest used first."""
        with public_errors():
            return [_convert.public(ConversationInfo, info) for info in self._inner.conversations()]

    # ---- feedback ----

    def record(self, reply: ReplyId | Reply, feedback: Feedback) -> FeedbackId:
        """Records what the person said about a reply. Never loads a model.

        A later verdict on the same reply replaces the earlier one. It is on disk when this returns.
        """
        with public_errors():
            return self._inner.record(_id(reply), _convert.feedback_boundary(feedback))

    def record_external(self, messages: Prompt, completion: str, feedback: Feedback) -> FeedbackId:
        """Records feedback on text that this library did not generate."""
        with public_errors():
            return self._inner.record_external(
                _convert.messages(messages), completion, _convert.feedback_boundary(feedback)
            )

    def withdraw(self, feedback: FeedbackId) -> FeedbackId:
        """Takes feedback back. The event stays in the log, without effect; `forget` erases."""
        with public_errors():
            return self._inner.withdraw(feedback)

    def feedback_on(self, reply: ReplyId | Reply) -> list[FeedbackInEffect]:
        """What is in effect on one reply, for showing a thumb as pressed."""
        with public_errors():
            return _convert.in_effect(self._inner.feedback_on(_id(reply)))

    def import_feedback(
        self, path: StrPath, format: FeedbackFormat | None = None, filters: ImportFilters | None = None
    ) -> Imported:
        """Takes in feedback from a file, all of it or nothing. What was taken in before changes nothing.

        Without a format, the fields of the first line decide.
        """
        if filters is not None and isinstance(filters.patterns, str):
            raise TypeError("patterns is a sequence of strings: write patterns=[...]")
        with public_errors():
            imported = self._inner.import_feedback(
                os.fspath(path), _convert.boundary(format), _convert.boundary(filters)
            )
        return _convert.public(Imported, imported)

    def export_feedback(self, path: StrPath, format: FeedbackFormat = FeedbackFormat.PREFERENCE) -> Exported:
        """Writes feedback in effect to a file, in a form that TRL's trainers load or in that of a data set.

        The file is replaced whole or not at all.
        """
        with public_errors():
            exported = self._inner.export_feedback(os.fspath(path), _convert.boundary(format))
        return _convert.public(Exported, exported)

    # ---- learning ----

    def readiness(self) -> Readiness:
        """Whether there is enough feedback to learn from, and how much is missing. Never loads a model."""
        with public_errors():
            return _convert.public(Readiness, self._inner.readiness())

    def personalize(self, budget: Budget | None = None, recipe: Recipe | None = None) -> PersonalizeJob:
        """Starts to learn from the log, or attaches to the job that runs, or goes on with the one that rests.

        A `recipe` is another way of learning, for comparing with the product's; a job that runs keeps its own.
        """
        with public_errors():
            job = self._inner.personalize(_convert.boundary(budget), _convert.boundary(recipe))
        return PersonalizeJob(job, self)

    def current_job(self) -> PersonalizeJob | None:
        """The job that runs or is paused, if any."""
        with public_errors():
            job = self._inner.current_job()
        return None if job is None else PersonalizeJob(job, self)

    # ---- versions of the adapter ----

    def adapters(self) -> list[AdapterDetails]:
        """Every adapter ever made, the first one first."""
        with public_errors():
            return [_convert.public(AdapterDetails, details) for details in self._inner.adapters()]

    def adapter(self, id: AdapterId) -> AdapterDetails:
        """One adapter."""
        with public_errors():
            return _convert.public(AdapterDetails, self._inner.adapter(id))

    def activate(self, id: AdapterId) -> None:
        """Serves replies with an adapter. One that was rolled back starts a new trial."""
        with public_errors():
            self._inner.activate(id)

    def deactivate(self) -> None:
        """Serves the base model alone, keeping the adapter as it is."""
        with public_errors():
            self._inner.deactivate()

    def rollback(self) -> AdapterId | None:
        """Takes the active adapter back and serves the one before it, or the base alone (`None`)."""
        with public_errors():
            return self._inner.rollback()

    def export(self, id: AdapterId, path: StrPath, format: AdapterFormat = AdapterFormat.GGUF) -> None:
        """Writes an adapter at full strength: the scale that it is served at is not in it.

        For PEFT's form the base model's file must be at hand.
        """
        with public_errors():
            self._inner.export(id, os.fspath(path), _convert.boundary(format))

    def import_adapter(self, path: StrPath, accept_unnamed_base: bool = False) -> AdapterId:
        """Takes in an adapter's file or folder that names the model at hand as its base or, if you say so, names none.

        It becomes a candidate that no gate has judged; one that is here already is left as it is.
        """
        with public_errors():
            return self._inner.import_adapter(os.fspath(path), accept_unnamed_base)

    def combine(self, parts: Sequence[AdapterPart], rank: int | None = None) -> AdapterId:
        """Makes an adapter that is the weighted sum of others: exactly, or the nearest one of a rank.

        It becomes a candidate that no gate has judged, and is forgotten with any of the feedback that its parts learned
        from.
        """
        with public_errors():
            return self._inner.combine([_convert.boundary(part) for part in parts], rank)

    def merge(self, id: AdapterId, path: StrPath, tensor_type: str | None = None) -> Merged:
        """Writes a model that needs no adapter: the base with the adapter, as it is served, in its weights.

        Matrices become `tensor_type`, "F32" or "Q8_0" say, or stay of their types without one.
        """
        with public_errors():
            merged = self._inner.merge(id, os.fspath(path), tensor_type)
        return _convert.public(Merged, merged)

    def record_vote(self, vote: Vote) -> Verdict:
        """Records a blind vote, and acts on the evidence: promotes the adapter, or rolls it back."""
        with public_errors():
            return _convert.public(Verdict, self._inner.record_vote(_convert.boundary(vote)))

    # ---- what replies are worth ----

    def score(self, reply: ReplyId | Reply, judge: Judge | AdapterId = Judge.ACTIVE) -> Score:
        """What a stored reply is worth to the person."""
        with public_errors():
            return _convert.public(Score, self._inner.score(_id(reply), _convert.judge(judge)))

    def score_text(self, messages: Prompt, text: str, judge: Judge | AdapterId = Judge.ACTIVE) -> Score:
        """What any reply to a conversation is worth, as one that the model ended itself."""
        with public_errors():
            score = self._inner.score_text(_convert.messages(messages), text, _convert.judge(judge))
        return _convert.public(Score, score)

    def fit_head(self, l2: float | None = None, canceller: Canceller | None = None) -> Head:
        """Fits a head on the feedback in effect, in the place of the one before.

        It takes a forward pass over every reply that was judged, and goes as soon as one of the events that it was
        fitted on is forgotten. `l2` is the ridge, above 0; by default it is chosen.
        """
        with public_errors():
            return _convert.public(Head, self._inner.fit_head(l2, canceller_boundary(canceller)))

    def head(self) -> Head | None:
        """The head of the model at hand, if one was fitted. Never loads a model."""
        with public_errors():
            head = self._inner.head()
        return None if head is None else _convert.public(Head, head)

    def drop_head(self) -> bool:
        """Drops the head of the model at hand; whether there was one. Never loads a model."""
        with public_errors():
            return self._inner.drop_head()

    # ---- blind side-by-sides ----

    def side_by_side(self, messages: Prompt, contest: Contest, canceller: Canceller | None = None) -> Match:
        """Two contestants answer, and what they say is recorded as a match, on sides drawn at random.

        Waits for both. Cancelled, it raises `OperationCancelled`, and nothing is recorded.
        """
        with public_errors():
            made = self._inner.side_by_side(
                _convert.messages(messages), _convert.contest(contest), canceller_boundary(canceller)
            )
        return _convert.public(Match, made)

    def side_by_side_of(self, id: MatchId) -> Match:
        """A match that was recorded."""
        with public_errors():
            return _convert.public(Match, self._inner.side_by_side_of(id))

    def open_matches(self) -> list[Match]:
        """Matches of the model at hand that nobody has voted on, the first one first. Never loads a model."""
        with public_errors():
            return [_convert.public(Match, match) for match in self._inner.open_matches()]

    def vote(self, match: MatchId | Match, choice: Choice) -> Voted:
        """Votes on a match, once, and tells who was on which side. Never loads a model.

        In a conversation the better reply becomes the last turn, of equals the left one. Between the base and an
        adapter on trial or promoted, the vote counts as `record_vote`'s do.
        """
        id = match.id if isinstance(match, Match) else match
        with public_errors():
            return _convert.public(Voted, self._inner.vote(id, _convert.boundary(choice)))

    def contest_due(self, share: float | None = None) -> Contest | None:
        """Whether the next prompt should be answered twice for a blind vote, and by whom.

        With a probability of `share`, by default 0.1, while the adapter in use is on trial. Never loads a model.
        """
        with public_errors():
            due = self._inner.contest_due(share)
        return None if due is None else Contest(due.a, due.b, seed=due.seed)

    def arena_results(self) -> ArenaResults:
        """What the votes on matches of the model at hand come to. Never loads a model."""
        with public_errors():
            return _convert.public(ArenaResults, self._inner.arena_results())

    # ---- files of questions ----

    def evaluate_choices(
        self,
        path: StrPath,
        adapter: AdapterId | None = None,
        format: ChoiceFormat | None = None,
        on_progress: Callable[[int, int], bool | None] | None = None,
    ) -> ChoiceReport:
        """Asks the multiple-choice questions of a file by log-likelihood, of an adapter or, without one, of the base.

        Without a format, the fields of the first row decide. `on_progress` is called with the number of rows that are
        done and of all of them. If it returns False, the call ends with `OperationCancelled`; what it raises is raised
        here.
        """
        with _listening(on_progress) as listener, public_errors():
            report = self._inner.evaluate_choices(os.fspath(path), adapter, _convert.boundary(format), listener)
        return _convert.public(ChoiceReport, report)

    def evaluate_refusals(
        self,
        path: StrPath,
        adapter: AdapterId | None = None,
        on_progress: Callable[[int, int], bool | None] | None = None,
    ) -> RefusalReport:
        """Asks the harmless prompts of a file, the likeliest token each time, and counts refusals.

        Nothing is recorded. `adapter` and `on_progress` are as for `evaluate_choices`.
        """
        with _listening(on_progress) as listener, public_errors():
            report = self._inner.evaluate_refusals(os.fspath(path), adapter, listener)
        return _convert.public(RefusalReport, report)

    def evaluate_reward(
        self,
        path: StrPath,
        judge: Judge | AdapterId = Judge.ACTIVE,
        on_progress: Callable[[int, int], bool | None] | None = None,
    ) -> RewardReport:
        """Asks a judge which of two replies is better, for every row of a file.

        `on_progress` is as for `evaluate_choices`.
        """
        with _listening(on_progress) as listener, public_errors():
            report = self._inner.evaluate_reward(os.fspath(path), _convert.judge(judge), listener)
        return _convert.public(RewardReport, report)

    # ---- forgetting and sleeping ----

    def forget(
        self,
        *,
        feedback: FeedbackId | None = None,
        reply: ReplyId | Reply | None = None,
        conversation: ConversationId | None = None,
        everything: bool = False,
    ) -> Forgotten:
        """Erases an item, what quotes it and everything that was made of it. Name exactly one.

        Adapters that learned from it are gone; the next `personalize` makes one as if it had never been said.
        """
        targets = []
        if feedback is not None:
            targets.append(_convert.target("FEEDBACK", id=feedback))
        if reply is not None:
            targets.append(_convert.target("REPLY", id=_id(reply)))
        if conversation is not None:
            targets.append(_convert.target("CONVERSATION", id=conversation))
        if everything:
            targets.append(_convert.target("EVERYTHING"))
        if len(targets) != 1:
            raise TypeError("name exactly one of feedback, reply, conversation and everything=True")
        with public_errors():
            return _convert.public(Forgotten, self._inner.forget(targets[0]))

    def suspend(self) -> None:
        """Pauses a job, unloads the model and releases every lock on the folder. The next call takes them again."""
        with public_errors():
            self._inner.suspend()


def machine() -> Machine:
    """What this machine and this build have, without loading anything."""
    return _convert.public(Machine, _ffi.machine())


def estimate_memory(model: StrPath, *, n_ctx: int = 4096, example_tokens: int = 512) -> MemoryEstimate:
    """What a model needs of memory for a context of `n_ctx` tokens, and to learn from examples of `example_tokens`.

    From its file alone: nothing is loaded.
    """
    with public_errors():
        return _convert.public(MemoryEstimate, _ffi.estimate_memory(os.fspath(model), n_ctx, example_tokens))


def hash_file(path: StrPath) -> str:
    """SHA-256 of a file, in hex."""
    with public_errors():
        return _ffi.hash_file(os.fspath(path))


def verify_model(path: StrPath, sha256: str) -> None:
    """Raises `ModelError` unless a downloaded model is the file that was meant."""
    with public_errors():
        _ffi.verify_model(os.fspath(path), sha256)


class _LoadListener(_ffi.LoadListener):
    """Keeps what the app's function raises, which cannot pass through the library."""

    def __init__(self, on_progress: Callable[[float], bool | None] | None) -> None:
        self.on_progress_of_app = on_progress
        self.raised: BaseException | None = None

    def on_progress(self, fraction: float) -> bool:
        try:
            return self.on_progress_of_app is None or self.on_progress_of_app(fraction) is not False
        except BaseException as error:  # KeyboardInterrupt, too
            self.raised = error
            return False


class _EvaluationListener(_ffi.EvaluationListener):
    """The same for evaluations."""

    def __init__(self, on_progress: Callable[[int, int], bool | None] | None) -> None:
        self.on_progress_of_app = on_progress
        self.raised: BaseException | None = None

    def on_progress(self, done: int, total: int) -> bool:
        try:
            return self.on_progress_of_app is None or self.on_progress_of_app(done, total) is not False
        except BaseException as error:  # KeyboardInterrupt, too
            self.raised = error
            return False


@contextlib.contextmanager
def _listening(on_progress: Callable[[int, int], bool | None] | None) -> Iterator[_EvaluationListener]:
    listener = _EvaluationListener(on_progress)
    try:
        yield listener
    finally:
        if listener.raised is not None:
            raise listener.raised


def _id(reply: ReplyId | Reply) -> ReplyId:
    return reply.id if isinstance(reply, Reply) else reply
