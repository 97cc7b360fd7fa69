"""What a `Thumbprint` hands out: replies in the making, stored chats, jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from . import _convert, _ffi
from ._errors import BOUNDARY, public_errors, to_public
from ._judging import Contest, Match
from ._types import (
    ConversationId,
    ConversationInfo,
    Done,
    Event,
    FeedbackId,
    GenerateOptions,
    Message,
    MessageId,
    Outcome,
    Progress,
    Reply,
    StoredMessage,
    Token,
)

if TYPE_CHECKING:
    from ._sync import Thumbprint


class Generation(Iterator[Event]):
    """A reply that is being generated: an iterator of `Token`s, with a `Done` at the end.

    Letting go of it cancels it, and so does leaving its `with` block early; what was not complete is not recorded.
    """

    def __init__(self, inner: _ffi.Generation, owner: Thumbprint) -> None:
        self._inner = inner
        # Closing is up to whoever opened it, and must not happen while this is in use.
        self._owner = owner

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Event:
        try:
            event = self._inner.next()
        except BOUNDARY as error:
            raise to_public(error) from None
        if event is None:
            raise StopIteration
        return _convert.event(event)

    def tokens(self) -> Iterator[str]:
        """The pieces of the reply's text alone; `wait` tells the rest."""
        for event in self:
            if isinstance(event, Token):
                yield event.text

    def wait(self) -> Reply:
        """Waits for the complete reply. May be called again."""
        for event in self:
            if isinstance(event, Done):
                return event.reply
        with public_errors():
            return _convert.public(Reply, self._inner.wait_for_reply())

    def cancel(self) -> None:
        """Stops it within one token, or one piece of the prompt. `Done` still comes. From any thread."""
        self._inner.cancel()

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()


class Batch:
    """Replies that are being generated together; for `AsyncThumbprint`, which cancels them."""

    def __init__(self, inner: _ffi.Batch) -> None:
        self._inner = inner

    def wait(self) -> list[Reply]:
        """Waits for all of them, once."""
        with public_errors():
            return [_convert.public(Reply, reply) for reply in self._inner.wait_for_replies()]

    def cancel(self) -> None:
        """Stops those that are not complete. From any thread."""
        self._inner.cancel()


class Conversation:
    """A stored chat."""

    def __init__(self, inner: _ffi.Conversation, owner: Thumbprint) -> None:
        self._inner = inner
        self._owner = owner

    @property
    def id(self) -> ConversationId:
        """Its id, to open it again."""
        return self._inner.id()

    def info(self) -> ConversationInfo:
        """Its title and when it was used."""
        with public_errors():
            return _convert.public(ConversationInfo, self._inner.info())

    def messages(self) -> list[StoredMessage]:
        """Its turns, the first one first."""
        with public_errors():
            return [_convert.public(StoredMessage, message) for message in self._inner.messages()]

    def append(self, message: Message) -> MessageId:
        """Adds a turn that is not answered: instructions at the beginning, say."""
        with public_errors():
            return self._inner.append(_convert.boundary(message))

    def send(self, text: str, options: GenerateOptions | None = None) -> Generation:
        """Says something and starts the reply to it.

        What was said before and never answered is left out of the chat from now on.
        """
        with public_errors():
            return Generation(self._inner.send(text, _convert.options(options)), self._owner)

    def regenerate(self, options: GenerateOptions | None = None) -> Generation:
        """Takes the last reply back and answers again. The old reply stays in the log, with a `Retry` on it."""
        with public_errors():
            return Generation(self._inner.regenerate(_convert.options(options)), self._owner)

    def side_by_side(self, text: str, contest: Contest, canceller: Canceller | None = None) -> Match:
        """Says something, and two contestants answer side by side (see `Thumbprint.side_by_side`).

        The left reply is the last turn until `Thumbprint.vote` is for the right one. What was said is kept even where
        it is cancelled.
        """
        with public_errors():
            made = self._inner.side_by_side(text, _convert.contest(contest), canceller_boundary(canceller))
        return _convert.public(Match, made)

    def edit(self, text: str) -> FeedbackId:
        """Records what the person wants instead of the last reply, and goes on from that."""
        with public_errors():
            return self._inner.edit(text)

    def branch(self, upto: MessageId, title: str | None = None) -> Conversation:
        """A new conversation that shares the turns up to and including `upto`."""
        with public_errors():
            return Conversation(self._inner.branch(upto, title), self._owner)

    def rename(self, title: str | None) -> None:
        """Gives it a title, or takes it away."""
        with public_errors():
            self._inner.rename(title)

    def delete(self) -> None:
        """Deletes it. Turns that feedback rests on stay until they are forgotten."""
        with public_errors():
            self._inner.delete()


class Canceller:
    """Ends calls that wait for something long, from another thread: `tp.fit_head(canceller=canceller)`."""

    def __init__(self) -> None:
        """One that has cancelled nothing yet."""
        self._inner = _ffi.Canceller()  # type: ignore[no-untyped-call]

    def cancel(self) -> None:
        """Ends the calls that it was handed to; those that begin later end at once. From any thread."""
        self._inner.cancel()


class PersonalizeJob:
    """A running or resting job: an iterable of its `Progress`, which ends once it is over or rests."""

    def __init__(self, inner: _ffi.PersonalizeJob, owner: Thumbprint) -> None:
        self._inner = inner
        self._owner = owner

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return _convert.public(Progress, self._inner.progress())

    def __iter__(self) -> Iterator[Progress]:
        last = None
        while (last := self._inner.next_progress(last)) is not None:
            yield _convert.public(Progress, last)

    def wait(self, on_progress: Callable[[Progress], object] | None = None) -> Outcome:
        """Waits until it is over or rests, telling `on_progress` about progress.

        What `on_progress` raises is raised here; the job goes on.
        """
        for progress in self:
            if on_progress is not None:
                on_progress(progress)
        with public_errors():
            return _convert.outcome(self._inner.wait_for_outcome(None))

    def pause(self) -> None:
        """Rests at once, and gives its memory back. What was learned so far is kept, also if the process ends."""
        self._inner.pause()

    def resume(self) -> None:
        """Goes on after a pause."""
        with public_errors():
            self._inner.resume()

    def cancel(self) -> None:
        """Gives up and cleans up."""
        with public_errors():
            self._inner.cancel()

    @property
    def finished(self) -> bool:
        """Whether it is over for good."""
        return self._inner.is_finished()


def canceller_boundary(canceller: Canceller | None) -> _ffi.Canceller | None:
    """A canceller as the boundary has it."""
    return None if canceller is None else canceller._inner
