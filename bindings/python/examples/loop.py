"""The demo in thirty lines: python loop.py MODEL.gguf DATA_FOLDER

A person who likes short answers presses thumbs and retry, the model learns from that, and blind votes on questions that nothing was learned
from tell whether it got better.
"""

import sys
from statistics import median

from thumbprint import (
    Budget,
    Choice,
    Contest,
    Down,
    EngineOptions,
    GenerateOptions,
    Rejected,
    Request,
    Retry,
    Thumbprint,
    Trial,
    Up,
)

THINGS = ["tea", "rain", "chess", "bread", "the moon", "running", "cats", "paper", "glass", "salt"]
ASKED = [f"{ask} {thing}?" for ask in ("What is", "Can you describe", "Why do people like") for thing in THINGS]
UNSEEN = [f"{ask} {thing}?" for ask in ("What is", "Can you describe") for thing in ("music", "a horse", "the sea", "snow")]


def words(text: str) -> int:
    return len(text.split())


def main(
    model: str,
    folder: str,
    asked: list[str] = ASKED,
    unseen: list[str] = UNSEEN,
    engine: EngineOptions | None = None,
    budget: Budget | None = None,
) -> None:
    with Thumbprint(folder, model=model, engine=engine) as tp:
        # Every question is asked, and retried twice; every reply gets a thumb.
        rounds = [
            tp.generate_batch([Request(question, GenerateOptions(max_tokens=96, seed=seed)) for question in asked])
            for seed in range(3)
        ]
        usual = median(words(reply.text) for reply in rounds[0])
        for reply in rounds[0] + rounds[1]:
            tp.record(reply, Retry())
        for reply in sum(rounds, []):
            tp.record(reply, Up() if words(reply.text) < usual else Down())

        job = tp.personalize(budget)
        for progress in job:
            print(f"{progress.phase} {progress.step}/{progress.total}   ", end="\r", flush=True)
        outcome = job.wait()
        if not isinstance(outcome, (Trial, Rejected)):
            sys.exit(f"nothing was learned: {outcome}")
        print(outcome.report.explanation)

        # The person is not told which of the two learned.
        for seed, question in enumerate(unseen):
            contest = Contest(outcome.adapter, None, GenerateOptions(max_tokens=96, seed=seed))
            match = tp.side_by_side(question, contest)
            left, right = words(match.left.text), words(match.right.text)
            tp.vote(match, Choice.TIE if left == right else Choice.LEFT if left < right else Choice.RIGHT)
        (pair,) = [pair for pair in tp.arena_results().pairs if pair.a == outcome.adapter]
        print(f"{pair.win_rate:.0%} of {pair.votes} blind votes on questions that were never asked: ", end="")
        print("better" if pair.interval.low > 0.5 else "worse" if pair.interval.high < 0.5 else "as good, as far as so few tell")
        print(tp.adapter(outcome.adapter).explanation)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
