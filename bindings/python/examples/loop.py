"""The whole loop with a user who likes short answers: python loop.py MODEL.gguf DATA_FOLDER"""

import sys
from statistics import mean

from thumbprint import EngineOptions, GenerateOptions, Prefer, Reply, Request, Thumbprint, Trial

THINGS = ["tea", "rain", "chess", "bread", "the moon", "running", "cats", "paper", "glass", "salt"]
ASKED = [f"{ask} {thing}?" for ask in ("What is", "Can you describe", "Why do people like") for thing in THINGS]
ASIDE = ["What is music?", "Can you describe horses?", "Why do people like the sea?", "What is snow?"]


def main(model: str, folder: str, asked: list[str] = ASKED, engine: EngineOptions | None = None) -> None:
    with Thumbprint(folder, model=model, engine=engine) as tp:

        def answer(questions: list[str], seed: int) -> list[Reply]:
            options = GenerateOptions(max_tokens=128, seed=seed)
            return tp.generate_batch([Request(question, options) for question in questions])

        def words(replies: list[Reply]) -> float:
            return mean(len(reply.text.split()) for reply in replies)

        before = words(answer(ASIDE, 0))
        for pair in zip(answer(asked, 1), answer(asked, 2)):
            short, long = sorted(pair, key=lambda reply: len(reply.text))
            tp.record(short, Prefer(over=long.id))
        job = tp.personalize()
        for progress in job:
            print(f"{progress.phase} {progress.step}/{progress.total}   ", end="\r", flush=True)
        outcome = job.wait()
        print(outcome.report.explanation if isinstance(outcome, Trial) else outcome)
        print(f"words on questions that were never asked: {before:.0f} before, {words(answer(ASIDE, 0)):.0f} now")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
