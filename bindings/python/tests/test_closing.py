"""One folder, several handles, one process; closing in any order; suspending."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ENGINE, LONG, SHORT
from thumbprint import ClosedError, FolderInUseError, Thumbprint, Token, Up

OPEN_IN_ANOTHER_PROCESS = """
import sys
from thumbprint import FolderInUseError, Thumbprint
try:
    Thumbprint(sys.argv[1]).close()
except FolderInUseError as error:
    print(error.code, error.pid)
else:
    print("free")
"""


def elsewhere(folder: Path) -> list[str]:
    """What another process says about the folder."""
    command = [sys.executable, "-c", OPEN_IN_ANOTHER_PROCESS, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_who_closes_second_returns_when_the_folder_is_free_too(tmp_path: Path, model: Path) -> None:
    for _ in range(3):
        tp = Thumbprint(tmp_path, model=model, engine=ENGINE)
        next(tp.generate("Tell me a long story.", LONG))
        first = threading.Thread(target=tp.close)
        first.start()
        while not tp.closed:
            time.sleep(0)
        tp.close()
        # Another process would take too long to ask.
        with open(tmp_path / "thumbprint.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.join()


def test_after_closing_every_call_says_so(tp: Thumbprint) -> None:
    chat = tp.conversation()
    generation = tp.generate("Tell me a long story.", LONG)
    next(generation)
    job = tp.personalize()
    job.wait()
    tp.close()
    tp.close()
    assert tp.closed
    calls: list[Callable[[], object]] = [
        lambda: tp.generate("Hello"),
        lambda: tp.record(1, Up()),
        lambda: tp.readiness(),
        lambda: tp.adapters(),
        lambda: tp.suspend(),
        lambda: tp.conversation(),
        lambda: chat.messages(),
        lambda: chat.send("Hello"),
        lambda: next(generation),
        lambda: generation.wait(),
        lambda: job.resume(),
        lambda: job.cancel(),
    ]
    for call in calls:
        with pytest.raises(ClosedError) as caught:
            call()
        assert caught.value.code == "closed"
    # What has nothing to tell any more does nothing.
    generation.cancel()
    job.pause()


def test_closing_ends_a_generation_that_another_thread_waits_for(tmp_path: Path, model: Path) -> None:
    tp = Thumbprint(tmp_path / "data", model=model, engine=ENGINE)
    generation = tp.generate("Tell me a long story.", LONG)
    raised: list[BaseException] = []
    began = threading.Event()

    def follow() -> None:
        try:
            for event in generation:
                assert isinstance(event, Token)
                began.set()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    assert began.wait(60)
    generation.cancel()
    tp.close()
    thread.join(30)
    assert not thread.is_alive()
    # It was cancelled and closed at once: it had its end, or was told that there is none.
    assert all(isinstance(error, (ClosedError, AssertionError)) for error in raised)
    assert elsewhere(tmp_path / "data") == ["free"]


def test_closing_in_the_middle_of_loading_gives_it_up(tmp_path: Path, model: Path) -> None:
    tp = Thumbprint(tmp_path / "data")
    with pytest.raises(ClosedError):
        tp.load(model, lambda fraction: tp.close())
    assert elsewhere(tmp_path / "data") == ["free"]


def test_closing_from_many_threads_at_once_is_fine(tp: Thumbprint) -> None:
    tp.generate("Hello", SHORT)
    threads = [threading.Thread(target=tp.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert tp.closed


def test_the_folder_opened_twice_is_one_instance_until_the_last_is_closed(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "data"
    app = Thumbprint(folder, model=model, engine=ENGINE)
    worker = Thumbprint(folder)
    assert [tp.open_report().already_open for tp in (app, worker)] == [False, True]
    worker.record_external("Hello", "Hi.", Up())
    assert app.readiness().have.events == 1
    # The worker has the model that the app named.
    assert worker.generate("Hello", SHORT).wait().text
    worker.close()
    assert app.generate("Hello", SHORT).wait().text
    code, pid = elsewhere(folder)
    assert code == "folder_in_use" and int(pid) > 0
    app.close()
    assert elsewhere(folder) == ["free"]


def test_another_process_has_the_folder(tmp_path: Path) -> None:
    script = "import sys; from thumbprint import Thumbprint; tp = Thumbprint(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(FolderInUseError) as caught:
            Thumbprint(tmp_path)
        assert caught.value.pid == other.pid
        assert str(other.pid) in caught.value.reason
        other.communicate("", timeout=60)
    Thumbprint(tmp_path).close()


def test_suspending_releases_the_folder_and_the_next_call_takes_it_again(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "data"
    with Thumbprint(folder, model=model, engine=ENGINE) as tp:
        reply = tp.generate("Hello", SHORT).wait()
        tp.suspend()
        assert elsewhere(folder) == ["free"]
        tp.record(reply, Up())
        assert elsewhere(folder)[0] == "folder_in_use"
        assert tp.generate("Hello", SHORT).wait().text == reply.text


def test_what_is_let_go_of_closes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    tp = Thumbprint(folder)
    chat = tp.conversation()
    del tp
    # A chat is enough to keep it open.
    assert chat.messages() == []
    assert elsewhere(folder)[0] == "folder_in_use"
    del chat
    assert elsewhere(folder) == ["free"]


def test_a_program_that_closes_nothing_ends(tmp_path: Path, model: Path) -> None:
    script = """
import sys
from thumbprint import Thumbprint
tp = Thumbprint(sys.argv[1], model=sys.argv[2])
generation = tp.generate("Tell me a long story.")
next(generation)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "data"), str(model)], check=True, timeout=120)
    assert elsewhere(tmp_path / "data") == ["free"]
