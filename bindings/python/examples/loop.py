"""The whole loop with a user who likes short answers: python loop.py MODEL.gguf DATA_FOLDER"""

import statistics
import sys

from thumbprint import Down, GenerateOptions, Thumbprint, Trial, Up

QUESTIONS = [
    f"{ask} {thing}?"
    for ask in ("What is", "Can you tell me about", "Why do people like")
    for thing in ("tea", "rain", "chess", "bread", "the moon", "running", "cats")
]
ASIDE = ["What is music?", "Can you tell me about horses?", "Why do people like the sea?"]


def main(model: str, folder: str) -> None:
    def lengths() -> list[int]:
        return [len(tp.generate(question, GenerateOptions(192, seed=1)).wait().text.split()) for question in ASIDE]

    with Thumbprint(folder, model=model) as tp:
        before = lengths()
        for seed, question in enumerate(QUESTIONS):
            for again in range(2):
                reply = tp.generate(question, GenerateOptions(192, seed=2 * seed + again)).wait()
                tp.record(reply, Up() if len(reply.text.split()) < 60 else Down(["too long"]))
        job = tp.personalize()
        for progress in job:
            print(f"\r{progress.phase} {progress.step}/{progress.total}  ", end="", flush=True)
        outcome = job.wait()
        print("\n" + (outcome.report.explanation if isinstance(outcome, Trial) else str(outcome)))
        after = lengths()
        print(f"words on questions that were never asked: {statistics.mean(before):.0f} before, {statistics.mean(after):.0f} after")


if __name__ == "__main__":
    main(*sys.argv[1:])
