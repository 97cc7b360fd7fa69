"""The loop on the real model: learn, pause, be killed, go on; serve, vote, roll back, forget."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import BRIEF, ENGINE, SHORT, THINGS, teach
from thumbprint import (
    AdapterError,
    AdapterFormat,
    AdapterPart,
    AdapterState,
    Budget,
    By,
    Cancelled,
    Choice,
    Contest,
    Decision,
    GuardFile,
    InvalidInputError,
    InvalidStateError,
    OverBudgetError,
    Paused,
    Phase,
    Progress,
    Recipe,
    Rejected,
    Thumbprint,
    Trial,
    TrialRunning,
    Vote,
    VoteOutcome,
)

PERSONALIZE = """
import sys
from thumbprint import EngineOptions, Recipe, Thumbprint
tp = Thumbprint(sys.argv[1], model=sys.argv[2], engine=EngineOptions(n_ctx=1024))
for progress in tp.personalize(recipe=Recipe(settings_json=sys.argv[3])):
    print(progress.phase, progress.step, progress.total, flush=True)
"""


@dataclass
class Learned:
    """A data folder whose job was cancelled, killed, paused, talked over and finished."""

    folder: Path
    tp: Thumbprint
    cancelled: object = None
    progress_of_killed: list[str] = field(default_factory=list)
    paused: object = None
    reply_while_paused: str = ""
    progress: list[Progress] = field(default_factory=list)
    outcome: object = None


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Learned]:
    folder = tmp_path_factory.mktemp("learned") / "data"

    with Thumbprint(folder, model=model, engine=ENGINE) as tp:
        teach(tp)
        job = tp.personalize(recipe=BRIEF)
        for progress in job:
            if progress.phase is Phase.FOLD:
                job.cancel()
        cancelled = job.wait()

    # Killed in the second of two trainings on halves, in a process of its own.
    command = [sys.executable, "-c", PERSONALIZE, str(folder), str(model), str(BRIEF.settings_json)]
    killed: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            killed.append(line.strip())
            phase, step, total = line.split()
            if phase == "fold" and 2 * int(step) > int(total):
                os.kill(child.pid, signal.SIGKILL)
                break

    with Thumbprint(folder, model=model, engine=ENGINE) as tp:
        result = Learned(folder, tp, cancelled=cancelled, progress_of_killed=killed)
        job = tp.personalize(recipe=BRIEF)
        for progress in job:
            result.progress.append(progress)
            if progress.phase is Phase.TRAIN and progress.step >= 2:
                job.pause()
        result.paused = job.wait()
        assert not job.finished
        result.reply_while_paused = tp.generate("Hello", SHORT).wait().text
        job.resume()
        result.outcome = job.wait(result.progress.append)
        yield result


def trial(learned: Learned) -> int:
    assert isinstance(learned.outcome, Trial), learned.outcome
    return learned.outcome.adapter


def test_a_cancelled_job_says_so_and_leaves_nothing(learned: Learned) -> None:
    assert learned.cancelled == Cancelled()
    assert len(learned.tp.adapters()) == 1


def test_a_killed_job_goes_on_where_it_was(learned: Learned) -> None:
    assert learned.progress_of_killed[-1].startswith("fold")
    folds = [progress for progress in learned.progress if progress.phase is Phase.FOLD]
    # The first half was not trained on again.
    assert all(2 * progress.step > progress.total for progress in folds)


def test_progress_goes_through_every_phase_with_numbers(learned: Learned) -> None:
    phases = list(dict.fromkeys(progress.phase for progress in learned.progress))
    assert phases.index(Phase.FOLD) < phases.index(Phase.TRAIN) < phases.index(Phase.GATE)
    trained = [progress for progress in learned.progress if progress.phase is Phase.TRAIN and progress.loss is not None]
    # Training ends early once the adapter has moved far enough.
    assert len(trained) > 2
    # A fresh adapter answers as the base does.
    assert trained[0].loss == pytest.approx(math.log(2))
    assert all(0 <= progress.step <= progress.total for progress in learned.progress)


def test_a_paused_job_rests_lets_talk_and_goes_on(learned: Learned) -> None:
    assert learned.paused == Paused()
    assert learned.reply_while_paused


def test_the_outcome_carries_the_gates_report(learned: Learned) -> None:
    assert isinstance(learned.outcome, (Trial, Rejected))
    report = learned.outcome.report
    assert report.thumbs == len(THINGS)
    assert report.explanation and report.held_out.sentence
    assert {guard.name for scale in report.scales for guard in scale.guards} >= {"neutral_perplexity", "kl_neutral"}
    (details,) = learned.tp.adapters()
    assert details.decisions[0].kind.startswith("offline: ")
    assert details.decisions[0].explanation == report.explanation


def test_the_new_adapter_is_in_use_at_once_and_the_base_can_still_be_asked(learned: Learned) -> None:
    adapter = trial(learned)
    assert learned.tp.adapter(adapter).active
    with_adapter = learned.tp.generate("What is paper?", SHORT).wait()
    without = learned.tp.generate("What is paper?", SHORT, by=By.BASE).wait()
    whatever_its_state = learned.tp.generate("What is paper?", SHORT, by=adapter).wait()
    assert (with_adapter.adapter, without.adapter, whatever_its_state.adapter) == (adapter, None, adapter)


def test_a_trial_is_not_disturbed(learned: Learned) -> None:
    assert learned.tp.personalize().wait() == TrialRunning(trial(learned))


def test_an_adapter_leaves_as_a_stock_file_and_comes_in_again(learned: Learned, tmp_path: Path) -> None:
    tp, adapter = learned.tp, trial(learned)
    tp.export(adapter, tmp_path / "adapter.gguf")
    assert (tmp_path / "adapter.gguf").read_bytes()[:4] == b"GGUF"
    tp.export(adapter, tmp_path / "peft", AdapterFormat.PEFT)
    assert (tmp_path / "peft" / "adapter_model.safetensors").exists()
    # One that is here already is found again.
    assert tp.import_adapter(tmp_path / "peft") == adapter
    assert tp.import_adapter(tmp_path / "adapter.gguf") == adapter


def test_adapters_are_added_up_and_merged(learned: Learned, tmp_path: Path) -> None:
    tp, adapter = learned.tp, trial(learned)
    none = tp.combine([AdapterPart(adapter, 1.0), AdapterPart(adapter, -1.0)], rank=4)
    assert not tp.adapter(none).active
    with pytest.raises(InvalidInputError):
        tp.merge(adapter, tmp_path / "merged.gguf", tensor_type="Q9_9")
    merged = tp.merge(none, tmp_path / "merged.gguf")
    assert (merged.changed, merged.left) == (210, [])


def test_an_adapter_scores_a_reply_token_by_token(learned: Learned) -> None:
    tp, adapter = learned.tp, trial(learned)
    reply = tp.generate("What is wool?", SHORT).wait()
    score = tp.score(reply)
    assert score.reward == pytest.approx(sum(score.per_token)) and score.reward != 0
    assert len(score.tokens) == reply.usage.completion_tokens
    assert score.logp is not None and score.reference_logp is not None and score.beta is not None
    assert score.reward == pytest.approx(score.beta * (score.logp - score.reference_logp))
    assert tp.score(reply.id, adapter) == score
    # A reply that was cut off is no whole text.
    assert tp.score_text("What is wool?", reply.text).tokens[: len(score.tokens)] == score.tokens


def test_a_blind_side_by_side_tells_who_wrote_what_after_the_vote(learned: Learned) -> None:
    tp, adapter = learned.tp, trial(learned)
    due = tp.contest_due(1.0)
    assert due is not None and (due.a, due.b) == (adapter, None)
    assert tp.contest_due(0.0) is None
    chat = tp.conversation()
    match = chat.side_by_side("What is salt?", Contest(due.a, due.b, SHORT))
    assert match.prompt[-1].content == "What is salt?" and match.choice is None
    assert chat.messages()[-1].reply == match.left.reply
    assert tp.open_matches() == [match]
    voted = tp.vote(match, Choice.RIGHT)
    assert {voted.left, voted.right} == {adapter, None}
    assert voted.verdict is not None and voted.verdict.wins + voted.verdict.losses == 1
    assert chat.messages()[-1].reply == match.right.reply
    assert tp.side_by_side_of(match.id).choice is Choice.RIGHT and tp.open_matches() == []
    with pytest.raises(InvalidStateError) as caught:
        tp.vote(match.id, Choice.LEFT)
    assert caught.value.code == "already_voted"
    (pair,) = tp.arena_results().pairs
    assert (pair.a, pair.b, pair.votes) == (adapter, None, 1)
    assert pair.wins == (voted.right == adapter) and pair.interval.low <= pair.win_rate <= pair.interval.high
    with pytest.raises(InvalidInputError):
        tp.side_by_side("What is salt?", Contest(None, None))
    # The same seed puts the same one on the left.
    sides = {tp.vote(tp.side_by_side("What is tea?", Contest(adapter, None, SHORT, seed=5)), Choice.TIE).left for _ in range(2)}
    assert len(sides) == 1


def test_blind_votes_promote_and_roll_back(learned: Learned) -> None:
    tp, adapter = learned.tp, trial(learned)
    mine = tp.generate("What is glass?", SHORT).wait()
    base = tp.generate("What is glass?", SHORT, by=By.BASE).wait()

    def vote(outcome: VoteOutcome) -> Decision:
        first = random.random() < 0.5
        verdict = tp.record_vote(Vote(adapter, outcome, first, candidate_reply=mine.id, baseline_reply=base.id))
        assert verdict.explanation
        return verdict.decision

    assert vote(VoteOutcome.TIE) is Decision.STAY
    assert any(vote(VoteOutcome.WIN) is Decision.PROMOTE for _ in range(60))
    assert tp.adapter(adapter).state is AdapterState.PROMOTED
    assert any(vote(VoteOutcome.LOSS) is Decision.ROLL_BACK for _ in range(60))
    details = tp.adapter(adapter)
    assert (details.state, details.active) == (AdapterState.ROLLED_BACK, False)
    assert tp.generate("What is glass?", SHORT).wait().adapter is None


def test_an_adapter_can_be_taken_up_put_down_and_taken_back_by_hand(learned: Learned) -> None:
    tp, adapter = learned.tp, trial(learned)
    tp.activate(adapter)
    assert tp.generate("What is salt?", SHORT).wait().adapter == adapter
    tp.deactivate()
    assert tp.generate("What is salt?", SHORT).wait().adapter is None
    tp.activate(adapter)
    assert tp.rollback() is None
    assert tp.adapter(adapter).state is AdapterState.ROLLED_BACK
    with pytest.raises(InvalidStateError):
        tp.rollback()


def test_a_damaged_adapter_is_told_and_the_base_answers(learned: Learned) -> None:
    tp, adapter = learned.tp, trial(learned)
    tp.activate(adapter)
    file = learned.folder / tp.adapter(adapter).file
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    tp.unload()
    with pytest.raises(AdapterError) as caught:
        tp.generate("Hello", SHORT)
    assert caught.value.code == "adapter_changed"
    assert tp.generate("Hello", SHORT).wait().adapter is None
    file.write_bytes(whole)
    assert tp.rollback() is None


def test_an_impossible_budget_is_refused_with_both_numbers(tmp_path: Path, model: Path) -> None:
    with Thumbprint(tmp_path, model=model, engine=ENGINE) as tp:
        teach(tp)
        with pytest.raises(OverBudgetError) as caught:
            tp.personalize(Budget(memory_mib=1), BRIEF).wait()
        assert caught.value.budget_mib == 1 < caught.value.needed_mib
        assert tp.current_job() is None


def test_a_recipe_changes_what_is_learned_and_one_that_makes_no_sense_is_refused(tmp_path: Path, model: Path) -> None:
    with Thumbprint(tmp_path / "data", model=model, engine=ENGINE) as tp:
        teach(tp)
        for recipe in [
            Recipe(settings_json='{"train": {"pair": {"betta": 1}}}'),
            Recipe(settings_json='{"learn": "thumbs"}'),
            Recipe(settings_json="no JSON"),
            Recipe(choices=GuardFile(tmp_path / "none.jsonl", 2.0)),
        ]:
            with pytest.raises(InvalidInputError) as caught:
                tp.personalize(recipe=recipe)
            assert caught.value.code == "recipe"
        settings = '{"train": {"max_steps": 7}, "folds": 0, "anchors": false, "west_of_n": null}'
        job = tp.personalize(recipe=Recipe(settings_json=settings))
        for progress in job:
            # The product's way trains on halves first.
            assert progress.phase is not Phase.FOLD
            if progress.phase is Phase.TRAIN and progress.step:
                assert progress.total == 7
                job.cancel()
        assert job.wait() == Cancelled()


def test_a_job_out_of_time_rests_and_is_found_again(tmp_path: Path, model: Path) -> None:
    with Thumbprint(tmp_path, model=model, engine=ENGINE) as tp:
        teach(tp)
        assert tp.personalize(Budget(seconds=0)).wait() == Paused()
        job = tp.current_job()
        assert job is not None and not job.finished
        job.cancel()
        assert job.finished and job.wait() == Cancelled()


def test_what_a_listener_of_a_job_raises_comes_out_and_the_job_goes_on(tmp_path: Path, model: Path) -> None:
    with Thumbprint(tmp_path, model=model, engine=ENGINE) as tp:
        teach(tp)
        job = tp.personalize(recipe=BRIEF)

        def listen(progress: Progress) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            job.wait(listen)
        assert not job.finished
        # Closing pauses it.


def test_forgetting_takes_the_adapter_that_learned_from_it(learned: Learned) -> None:
    # The last test here: it undoes the rest.
    tp, adapter = learned.tp, trial(learned)
    forgotten = tp.forget(everything=True)
    # With what was taken in from files and made of others.
    assert set(forgotten.adapters) == {details.id for details in tp.adapters()} > {adapter}
    assert tp.adapter(adapter).state is AdapterState.FORGOTTEN
    with pytest.raises(InvalidStateError):
        tp.activate(adapter)
    assert tp.generate("Hello", SHORT).wait().adapter is None
