"""What judges and is judged: rewards, blind side-by-sides, files of questions."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ._types import AdapterId, GenerateOptions, MatchId, Message, ReplyId, StopReason, Verdict, _Named


@dataclass(frozen=True)
class Score:
    """What a reply is worth."""

    reward: float
    """Higher is better. Of an adapter: `beta` times the sum of its log-probabilities over the base's, nats; 0 for an adapter that changes
    nothing. Of a head: log-odds of a 👍."""
    per_token: list[float]
    """The reward of each token, of which `reward` is the sum. Of a head: nothing."""
    tokens: list[int]
    """The reply's tokens, the end token included if it was finished."""
    logp: float | None
    """Natural log-probability of the reply under the adapter, nats."""
    reference_logp: float | None
    """The same under the base."""
    beta: float | None
    """The adapter's beta."""


@dataclass(frozen=True)
class Interval:
    """From one number to another."""

    low: float
    """The lower end."""
    high: float
    """The upper end."""


@dataclass(frozen=True)
class Head:
    """A reward head that was fitted. Its weights stay inside, where the hidden states are."""

    base_sha256: str
    """SHA-256 of the base whose states it reads."""
    template_hash: str
    """Hash of the chat template that prompts were rendered with."""
    bias: float
    """Log-odds of a 👍 at the mean."""
    l2: float
    """The ridge."""
    pairs: int
    """Pairs that it was fitted on."""
    singles: int
    """Single judgements that it was fitted on."""
    cross_validated: CrossValidated | None
    """How well it does on prompts that it has not seen; `None` with feedback on too few prompts."""


@dataclass(frozen=True)
class CrossValidated:
    """How well heads that had not seen a prompt's judgements agreed with them."""

    right: int
    """Judgements agreed with: the better one higher, a 👍 over even odds, a 👎 under them."""
    of: int
    """Judgements asked."""
    accuracy: float
    """`right / of`."""
    interval: Interval
    """Its 95 % Wilson interval."""


# ---- blind side-by-sides ----


@dataclass(frozen=True)
class Contest:
    """Who is compared in a blind side-by-side, and how they answer. `None` is the base model alone."""

    a: AdapterId | None
    """One of the two, at the scale that it is served at."""
    b: AdapterId | None
    """The other one."""
    options: GenerateOptions | None = None
    """How both answer, seed included: from the same model the same reply would come twice."""
    seed: int | None = None
    """Draws the sides; by default another one each time."""


class Choice(_Named):
    """A vote on a side-by-side."""

    LEFT = enum.auto()
    """The reply on the left is better."""
    RIGHT = enum.auto()
    """The reply on the right is better."""
    TIE = enum.auto()
    """Both are as good."""
    BOTH_BAD = enum.auto()
    """Neither is any good. Counts as a tie, and is counted apart."""


@dataclass(frozen=True)
class Match:
    """Two replies side by side. It does not tell who wrote which."""

    id: MatchId
    """What the vote refers to."""
    prompt: list[Message]
    """What was answered."""
    left: Side
    """The reply on the left."""
    right: Side
    """The reply on the right."""
    choice: Choice | None
    """The vote, once there is one."""


@dataclass(frozen=True)
class Side:
    """One side of a match."""

    reply: ReplyId
    """What feedback refers to: a vote is none, and teaches nothing by itself."""
    text: str
    """The reply's text."""
    stop_reason: StopReason | None
    """Why it ended."""


@dataclass(frozen=True)
class Voted:
    """What a vote came to. `None` is the base."""

    left: AdapterId | None
    """Who was on the left."""
    right: AdapterId | None
    """Who was on the right."""
    verdict: Verdict | None
    """Where the trial stands, if the match was between the base and an adapter on trial or promoted: then the vote counts there, too."""


@dataclass(frozen=True)
class ArenaResults:
    """What all votes on side-by-sides come to."""

    votes: int
    """Votes."""
    pairs: list[PairResult]
    """Every two that met, adapters before the base."""
    strengths: list[Strength]
    """With three contestants or more, the strongest first; else empty."""
    connected: bool
    """Whether every contestant met every other one, or others who did: only then can strengths be compared."""


@dataclass(frozen=True)
class PairResult:
    """How two contestants compare. `None` is the base."""

    a: AdapterId | None
    """One of them."""
    b: AdapterId | None
    """The other one."""
    votes: int
    """Votes, all kinds together."""
    wins: int
    """Votes for `a`."""
    losses: int
    """Votes for `b`."""
    ties: int
    """Votes for both."""
    both_bad: int
    """Votes for neither."""
    win_rate: float
    """Share of votes for `a`, with ties and votes for neither half."""
    interval: Interval
    """Its 95 % Wilson interval."""
    length_controlled_win_rate: float | None
    """The win rate of `a` at equal length. Read it beside `win_rate`, never instead of it."""
    mean_length_difference: float
    """By how many tokens replies of `a` are longer on average."""


@dataclass(frozen=True)
class Strength:
    """How strong a contestant is."""

    contestant: AdapterId | None
    """Who; `None` is the base."""
    votes: int
    """Votes that it took part in."""
    strength: float
    """Log-odds of beating a contestant of strength 0; the strengths of all sum up to 0."""
    interval: Interval
    """95 % of resamples lie in here."""


# ---- files of questions ----


class ChoiceFormat(_Named):
    """How the rows of a file of multiple-choice questions are to be understood."""

    ARC = enum.auto()
    """AI2's Reasoning Challenge."""
    HELLA_SWAG = enum.auto()
    """HellaSwag."""
    MMLU = enum.auto()
    """Massive Multitask Language Understanding."""


@dataclass(frozen=True)
class Accuracy:
    """A share of questions, with how sure it is."""

    right: float
    """Questions answered right; where ties are possible they count half."""
    n: int
    """Questions asked."""
    share: float
    """`right / n`; 0 of none."""
    interval: Interval
    """Its 95 % Wilson interval; from 0 to 1 of none."""


@dataclass(frozen=True)
class ChoiceReport:
    """What a model knows of a file of multiple-choice questions."""

    acc: Accuracy
    """Share of questions whose likeliest choice is right."""
    acc_norm: Accuracy
    """Share of questions whose likeliest choice for its length is right."""
    subjects: dict[str, Accuracy]
    """`acc_norm` by subject, where the file names any."""
    answers: list[Answer]
    """The answer to each question, in their order."""


@dataclass(frozen=True)
class Answer:
    """What a model answered. Choices are counted from 0."""

    pick: int
    """The likeliest choice."""
    pick_norm: int
    """The likeliest for its length."""
    gold: int
    """The right one."""


@dataclass(frozen=True)
class RefusalReport:
    """How often a model refuses harmless prompts."""

    refused: Accuracy
    """Share of harmless prompts that it refused."""
    types: dict[str, Accuracy]
    """The same by type, where the file has types."""
    refusals: list[bool]
    """Whether each prompt was refused, in their order."""
    left_out: int
    """Rows that should be refused, and were not asked."""


@dataclass(frozen=True)
class RewardReport:
    """How often a judge scored the better reply higher, ties counted half."""

    all: Accuracy
    """Over all comparisons."""
    subsets: dict[str, Accuracy]
    """By category, where the file has any."""
    sections: dict[str, Accuracy]
    """By RewardBench's sections, where the categories are its own."""
    seen: int
    """Comparisons whose prompt has feedback in the log: to a judge that learned from it they are not held out."""
