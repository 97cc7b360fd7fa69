"""What goes in and comes out, by value."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, Union

ReplyId: TypeAlias = int
"""Names a reply."""
FeedbackId: TypeAlias = int
"""Names one event of feedback. A larger one is later."""
ConversationId: TypeAlias = int
"""Names a stored chat."""
MessageId: TypeAlias = int
"""Names one turn of a stored chat."""
AdapterId: TypeAlias = int
"""Names one version of the adapter."""
MatchId: TypeAlias = int
"""Names one blind side-by-side."""
RunId: TypeAlias = int
"""Names one run of the personalization job."""

StrPath: TypeAlias = Union[str, "os.PathLike[str]"]
"""A path."""


class _Named(str, enum.Enum):
    """An enum whose values are its names in lower case, so that they read well in JSON and logs."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:
        return name.lower()

    def __str__(self) -> str:
        return str(self.value)


# ---- what an app asks for ----


class Role(_Named):
    """Who speaks in a message."""

    SYSTEM = enum.auto()
    """Instructions of the app."""
    USER = enum.auto()
    """The person."""
    ASSISTANT = enum.auto()
    """The model."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Role
    """Who speaks."""
    content: str
    """What is said, without any template markup."""

    @staticmethod
    def system(content: str) -> Message:
        """Instructions of the app."""
        return Message(Role.SYSTEM, content)

    @staticmethod
    def user(content: str) -> Message:
        """Something the person says."""
        return Message(Role.USER, content)

    @staticmethod
    def assistant(content: str) -> Message:
        """Something the model said."""
        return Message(Role.ASSISTANT, content)


Prompt: TypeAlias = Union[str, Message, Sequence[Message]]
"""What is to be answered: one thing that the person says, or a chat with that last."""


class FlashAttention(_Named):
    """Whether attention is computed by the fused kernel."""

    AUTO = enum.auto()
    """Where the device has the kernel."""
    OFF = enum.auto()
    """Never, for comparing numbers with another implementation."""


class KvType(_Named):
    """Element type of the key-value cache."""

    F16 = enum.auto()
    """Half precision."""
    F32 = enum.auto()
    """Single precision, for comparing numbers with another implementation."""


@dataclass(frozen=True)
class EngineOptions:
    """How a model is loaded and run. `None` takes the library's default."""

    n_ctx: int | None = None
    """Tokens that a conversation can have, its reply included; by default what the model was trained for, at most 4096."""
    n_batch: int | None = None
    """Tokens of a prompt that are computed at once."""
    n_threads: int | None = None
    """Compute threads; by default one for each processor, at most 8."""
    n_gpu_layers: int | None = None
    """Layers on a GPU; by default all that fit."""
    use_mmap: bool | None = None
    """Whether the model's file is mapped instead of read."""
    repack: bool | None = None
    """Whether weights are rearranged for faster products, which keeps a second copy of them in memory."""
    flash_attention: FlashAttention | None = None
    """Whether attention is computed by the fused kernel."""
    kv_type: KvType | None = None
    """Element type of the key-value cache."""


class Overflow(_Named):
    """What to do when a conversation and its reply do not fit the context."""

    ERROR = enum.auto()
    """Raise `PromptTooLongError`, with both numbers."""
    TRUNCATE_OLDEST_TURNS = enum.auto()
    """Drop the oldest turns, keeping system messages and the last turn."""


class Judge(_Named):
    """Who tells how good a reply is. An adapter is named by its id instead, and judges at the scale that it is served at."""

    ACTIVE = enum.auto()
    """The active adapter: its own reward over the base."""
    HEAD = enum.auto()
    """The head that was fitted on the person's feedback (see `Thumbprint.fit_head`)."""


@dataclass(frozen=True)
class GenerateOptions:
    """Length, sampling and stop conditions of a reply. `None` takes the library's default."""

    max_tokens: int | None = None
    """Tokens to generate at most, 1 or more."""
    temperature: float | None = None
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: float | None = None
    """Draw from the smallest set of tokens with this much probability, in (0, 1]."""
    min_p: float | None = None
    """Leave out tokens less likely than this share of the likeliest, in [0, 1)."""
    repetition_penalty: float | None = None
    """Divides the logits of recent tokens; 1 is off."""
    repetition_window: int | None = None
    """How many recent tokens the penalty looks at."""
    seed: int | None = None
    """Seed of the draw: the same gives the same reply; by default another one each time."""
    stop: Sequence[str] = ()
    """Strings that end the reply; they are not part of its text."""
    overflow: Overflow | None = None
    """What to do when the conversation is longer than the context."""
    best_of: int | None = None
    """Replies to draw side by side, 1 to 64, of which the best is recorded and comes in one piece. The i-th has the seed plus i."""
    judge: Judge | AdapterId | None = None
    """Who says which is the best; by default the active adapter."""


class By(_Named):
    """Who answers. An adapter is named by its id instead."""

    ACTIVE = enum.auto()
    """The base model with the active adapter, if any."""
    BASE = enum.auto()
    """The base model alone."""


@dataclass(frozen=True)
class Request:
    """One of several replies to be generated together."""

    messages: Prompt
    """What is to be answered."""
    options: GenerateOptions | None = None
    """Length, sampling, stop strings."""
    replaces: ReplyId | None = None
    """The reply whose place it takes: the person pressed retry."""
    by: By | AdapterId = By.ACTIVE
    """Who answers; an id means that adapter at full scale, whatever its state."""


@dataclass(frozen=True)
class Up:
    """👍"""


@dataclass(frozen=True)
class Down:
    """👎"""

    reasons: Sequence[str] = ()
    """Why, if the person said so: "too long", "wrong", or a wish in their own words."""


@dataclass(frozen=True)
class Edit:
    """The person rewrote the reply."""

    text: str
    """The text that they want instead."""


@dataclass(frozen=True)
class Prefer:
    """The reply was picked over another reply to the same prompt."""

    over: ReplyId
    """The reply that was not picked."""


@dataclass(frozen=True)
class Rank:
    """An order among several replies to the same prompt, of which this one is the best."""

    over: Sequence[ReplyId]
    """The other replies, one at least, the best of them first."""


@dataclass(frozen=True)
class Retry:
    """The person asked for another reply."""


Feedback: TypeAlias = Union[Up, Down, Edit, Prefer, Rank, Retry]
"""What a person said about a reply, or did with it."""


@dataclass(frozen=True)
class Budget:
    """What a job may use. `None` takes the library's default."""

    memory_mib: int | None = None
    """Most resident memory of training, MiB, the mapped model included; by default as much as is fastest."""
    seconds: int | None = None
    """The job pauses after this many seconds of work. It never shortens what is learned."""
    n_threads: int | None = None
    """Threads; by default as many as there are processors."""
    seed: int | None = None
    """Seeds the adapter, the order of examples and what is sampled."""
    max_example_tokens: int | None = None
    """Longest example that is learned from, tokens of prompt and replies together."""
    replace_trial: bool | None = None
    """Whether a new candidate may take the place of one whose trial is undecided."""
    gpu: bool | None = None
    """Whether to train on the first GPU of a build with a GPU feature; a job fails where there is none."""
    require_gpu: bool | None = None
    """Whether to train on the GPU, and to fail rather than compute on the CPU what the GPU has no kernel for."""
    online_rounds: int | None = None
    """Rounds, 3 at most, in which the new adapter answers the feedback's prompts again, its own reward labels the answers, and training
    goes on with them; each is braked. By default there are none: what a model thinks of its own words is no feedback."""


@dataclass(frozen=True)
class GuardFile:
    """A file that the app brings, as a guard of the gate."""

    path: StrPath
    """The file. It is read before anything is learned, and again when a candidate is judged."""
    tolerated: float
    """By how much the share may worsen, in [0, 1]: 0.02 is two points."""


@dataclass(frozen=True)
class Recipe:
    """A way of learning other than the product's."""

    choices: GuardFile | None = None
    """Multiple-choice questions of which a candidate must not get many fewer right than the base."""
    refusals: GuardFile | None = None
    """Harmless prompts of which a candidate must not refuse many more than the base."""
    settings_json: str | None = None
    """For comparing with the product: settings that replace its own, as JSON with the names of the Rust crate's `Recipe`:
    `{"learn_from": "thumbs", "train": {"unpaired": {"loss_type": "kto"}}}`."""


class FeedbackFormat(_Named):
    """What the lines of a file of feedback hold."""

    PREFERENCE = enum.auto()
    """TRL's preference form: `prompt`, `chosen`, `rejected`."""
    UNPAIRED = enum.auto()
    """TRL's unpaired form: `prompt`, `completion`, `label`."""
    RANKING = enum.auto()
    """Rankings: `prompt`, `ranked`, the best answer first."""
    SHARE_GPT = enum.auto()
    """ShareGPT's conversations."""
    HH_RLHF = enum.auto()
    """Transcripts as in HH-RLHF."""
    ULTRA_FEEDBACK = enum.auto()
    """Rated completions as in UltraFeedback."""
    NECTAR = enum.auto()
    """Ranked answers as in Nectar."""
    OASST = enum.auto()
    """Trees as in OASST."""


@dataclass(frozen=True)
class ImportFilters:
    """What an import passes over; by default nothing."""

    min_chars: int | None = None
    """Rows whose answer has fewer characters. Here and below, of several answers the liked or best one."""
    max_chars: int | None = None
    """Rows whose prompt and longest answer have more characters."""
    refusals: bool = False
    """Rows whose answer begins as refusals do (English phrases)."""
    boilerplate: bool = False
    """Rows whose answer has a phrase that assistants put into any answer (English phrases)."""
    patterns: Sequence[str] = ()
    """Rows whose answer matches one of these regular expressions, in the syntax of the Rust crate regex-lite."""
    duplicates: bool = False
    """Rows that differ from an earlier one in case, spaces and punctuation at most."""
    near_duplicates: float | None = None
    """Rows that have this share, in (0, 1], of runs of four letters in common with an earlier one; estimated, within 0.04."""


class VoteOutcome(_Named):
    """How a blind vote went, from the adapter's side."""

    WIN = enum.auto()
    """The adapter's reply was picked."""
    LOSS = enum.auto()
    """The base's reply was picked."""
    TIE = enum.auto()
    """Neither."""


@dataclass(frozen=True)
class Vote:
    """A blind vote between a reply under an adapter and one without."""

    adapter: AdapterId
    """The adapter on trial."""
    outcome: VoteOutcome
    """How it went."""
    candidate_first: bool
    """Whether the adapter's reply was shown first; draw sides at random."""
    candidate_reply: ReplyId | None = None
    """The adapter's reply, if replies were recorded."""
    baseline_reply: ReplyId | None = None
    """The base's reply, if replies were recorded."""


# ---- what comes of it ----


class StopReason(_Named):
    """Why a generation ended."""

    END_OF_TURN = enum.auto()
    """The model ended its turn."""
    STOP_STRING = enum.auto()
    """One of the strings given by the app appeared."""
    MAX_TOKENS = enum.auto()
    """The limit on tokens was reached."""
    CONTEXT_FULL = enum.auto()
    """The context was full."""
    CANCELLED = enum.auto()
    """The app cancelled."""


@dataclass(frozen=True)
class Usage:
    """What one generation consumed."""

    prompt_tokens: int
    """Tokens of the prompt, reused ones included."""
    reused_tokens: int
    """Tokens of the prompt that were computed before and not again."""
    completion_tokens: int
    """Tokens generated."""
    first_token_ms: float
    """Milliseconds until the first token."""
    decode_ms: float
    """Milliseconds from the first token to the last."""


@dataclass(frozen=True)
class Sampling:
    """How tokens were drawn; see `GenerateOptions`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    repetition_window: int
    seed: int


@dataclass(frozen=True)
class BestOf:
    """How a reply was chosen among several."""

    judge: Judge | AdapterId
    """Who chose."""
    chosen: int
    """Which one it is, from 0; its seed is the request's plus this."""
    scores: list[float]
    """The score of each, higher is better. Empty if the generation was cancelled before they were scored: then the first that is complete
    was taken."""


@dataclass(frozen=True)
class Reply:
    """A complete reply, recorded."""

    id: ReplyId
    """What feedback refers to."""
    text: str
    """Its text."""
    stop_reason: StopReason
    """Why it ended."""
    usage: Usage
    """Token counts and times."""
    tokens_per_second: float
    """Tokens per second after the first one; 0 if there was only one."""
    sampling: Sampling
    """How its tokens were chosen, the seed included."""
    adapter: AdapterId | None
    """The adapter that it was generated under; `None` for the base model."""
    dropped_messages: int
    """Messages that did not fit the context and were left out."""
    best_of: BestOf | None
    """How it was chosen, if several were drawn."""


@dataclass(frozen=True)
class Token:
    """More of a reply's text."""

    text: str
    """Whole characters, never empty."""


@dataclass(frozen=True)
class Done:
    """The reply is complete and recorded. The last event."""

    reply: Reply
    """The reply."""


Event: TypeAlias = Union[Token, Done]
"""What a running generation says."""


@dataclass(frozen=True)
class ConversationInfo:
    """A stored chat, without its turns. Times are milliseconds since 1970."""

    id: ConversationId
    """Its id, to open it."""
    title: str | None
    """Its title, if it was given one."""
    head: MessageId | None
    """Its last turn; `None` before the first."""
    created_at: int
    """When it was begun."""
    updated_at: int
    """When its last turn was said."""


@dataclass(frozen=True)
class StoredMessage:
    """One turn of a stored chat."""

    id: MessageId
    """Its id."""
    parent: MessageId | None
    """The turn before it."""
    message: Message
    """Who speaks, and what is said."""
    reply: ReplyId | None
    """The reply recorded for it, for turns of the assistant."""
    created_at: int
    """Milliseconds since 1970."""


@dataclass(frozen=True)
class FeedbackInEffect:
    """One event of feedback that is in effect."""

    id: FeedbackId
    """Its id, to withdraw or forget it."""
    feedback: Feedback
    """What was said."""


@dataclass(frozen=True)
class Tally:
    """How much was said. An edit, a pick or a ranking is one event, and counts as one of each class."""

    events: int
    """Thumbs, edits, picks and rankings."""
    liked: int
    """👍, edits, picks and rankings."""
    disliked: int
    """👎, edits, picks and rankings."""


@dataclass(frozen=True)
class Readiness:
    """Whether there is enough to learn from."""

    is_ready: bool
    """Whether all that is needed is there."""
    have: Tally
    """What was said."""
    need: Tally
    """What is needed."""
    examples: int
    """Examples that it makes."""


class Phase(_Named):
    """What a job is doing."""

    CURATE = enum.auto()
    """Reads the log and makes examples of it."""
    REPLAY = enum.auto()
    """The base answers neutral prompts, to be kept as it is there."""
    REFERENCE = enum.auto()
    """The base scores the examples."""
    FOLD = enum.auto()
    """Trains on one half, to rank the other."""
    TRAIN = enum.auto()
    """Trains on everything."""
    ONLINE = enum.auto()
    """Answers prompts of the feedback again, and trains on what its own reward prefers (see `Budget.online_rounds`)."""
    GATE = enum.auto()
    """Measures whether the candidate harms."""
    DONE = enum.auto()
    """Over."""


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    phase: Phase
    """What it is doing."""
    step: int
    """Part of the phase that is done."""
    total: int
    """Parts of the phase."""
    loss: float | None
    """Loss of the last training step."""
    margin: float | None
    """Mean difference of rewards between chosen and rejected in the last training step."""
    eta_seconds: float | None
    """Seconds until the end, estimated; `None` before there is anything to go by."""


@dataclass(frozen=True)
class GuardResult:
    """One check with its numbers."""

    name: str
    """What was checked: "neutral_perplexity", "kl_neutral"."""
    value: float
    """What was measured; not a number where it could not be."""
    at_least: float | None
    """Lowest allowed value."""
    at_most: float | None
    """Highest allowed value."""
    passed: bool
    """Whether the value lay there."""
    sentence: str
    """The same for people."""


@dataclass(frozen=True)
class ScaleReport:
    """The guards at one scale."""

    scale: float
    """Factor on the adapter's strength."""
    allowed: bool
    """Whether a trial may use it."""
    guards: list[GuardResult]
    """One result a guard."""


@dataclass(frozen=True)
class OfflineReport:
    """What the gate decided about a candidate, and every number it rests on."""

    scale: float | None
    """Factor on the adapter's strength in its trial; `None` where it was rejected."""
    reasons: list[str]
    """Why it was rejected, one sentence for each check that failed."""
    thumbs: int
    """Feedback events that it was trained on."""
    held_out: GuardResult
    """Whether it ranks unseen feedback right."""
    scales: list[ScaleReport]
    """Guards at each scale measured, largest first."""
    explanation: str
    """The decision in plain sentences."""


@dataclass(frozen=True)
class Trial:
    """A new adapter is in use, unconfirmed until blind votes decide."""

    adapter: AdapterId
    """The adapter."""
    report: OfflineReport
    """What the gate measured."""


@dataclass(frozen=True)
class Rejected:
    """A new adapter failed the gate; what was in use before still is."""

    adapter: AdapterId
    """The adapter."""
    report: OfflineReport
    """What the gate measured."""


@dataclass(frozen=True)
class TrialRunning:
    """The adapter in use is still on trial and must not change before its votes are in (see `Budget.replace_trial`)."""

    adapter: AdapterId
    """The adapter on trial."""


@dataclass(frozen=True)
class NothingToLearn:
    """The log does not say enough yet: there is too little of it, or, where `readiness` is met, it tells replies apart no better than
    chance does."""

    readiness: Readiness
    """What there is and what is needed."""


@dataclass(frozen=True)
class Paused:
    """The job rests: asked for, or out of time. `personalize` or `resume` goes on."""


@dataclass(frozen=True)
class Cancelled:
    """The job was given up."""


Outcome: TypeAlias = Union[Trial, Rejected, TrialRunning, NothingToLearn, Paused, Cancelled]
"""How a job ended, or why it rests."""


class AdapterState(_Named):
    """Where an adapter stands."""

    CANDIDATE = enum.auto()
    """Trained, taken from a file or made of others, and not judged."""
    REJECTED = enum.auto()
    """Failed the checks after training; kept for the record, never used."""
    TRIAL = enum.auto()
    """Passed the checks: may be in use, unconfirmed."""
    PROMOTED = enum.auto()
    """Confirmed by blind votes."""
    ROLLED_BACK = enum.auto()
    """Withdrawn by votes, by a newer adapter or by the person."""
    FORGOTTEN = enum.auto()
    """Had seen something that was forgotten since; its file is gone."""


class AdapterFormat(_Named):
    """What an adapter is written as."""

    GGUF = enum.auto()
    """One file, a stock GGUF LoRA that llama.cpp loads."""
    PEFT = enum.auto()
    """A folder as PEFT's `save_pretrained` writes it, which transformers loads."""


@dataclass(frozen=True)
class AdapterPart:
    """How much of an adapter goes into a sum."""

    adapter: AdapterId
    """The adapter, as it is served: at its scale."""
    weight: float
    """Finite; below 0 takes it away."""


@dataclass(frozen=True)
class Merged:
    """What a merge came to."""

    changed: int
    """Matrices that the adapter changed."""
    left: list[str]
    """Matrices that were not brought to the type that was asked for, since they are not quantized by anyone: routers of experts."""


class Decision(_Named):
    """What the votes say."""

    STAY = enum.auto()
    """Nothing changes."""
    PROMOTE = enum.auto()
    """The adapter on trial is confirmed."""
    ROLL_BACK = enum.auto()
    """Back to what was active before."""


@dataclass(frozen=True)
class Verdict:
    """A decision over votes, with its numbers."""

    decision: Decision
    """The decision."""
    wins: int
    """Votes for the adapter."""
    losses: int
    """Votes for the base."""
    ties: int
    """Votes for neither."""
    evidence: float
    """Evidence for the adapter; 1 at the start."""
    evidence_against: float
    """Evidence against it; 1 at the start."""
    promote_at: float
    """`evidence` at which it is promoted."""
    roll_back_at: float
    """`evidence_against` at which it is rolled back."""
    replaceable: bool
    """Whether a newer candidate may take its place now."""
    explanation: str
    """All of it in plain sentences."""


@dataclass(frozen=True)
class AdapterDecision:
    """One decision about an adapter."""

    at: int
    """Milliseconds since 1970."""
    kind: str
    """What kind: "offline: trial", "votes: promoted", "by hand: rolled_back"."""
    explanation: str | None
    """The same for people, where there is a sentence."""
    numbers_json: str
    """The numbers that made it, as JSON."""


@dataclass(frozen=True)
class AdapterDetails:
    """An adapter with everything that was decided about it."""

    id: AdapterId
    """Its id."""
    state: AdapterState
    """Where it stands."""
    explanation: str
    """The state in a sentence for people."""
    active: bool
    """Whether replies are generated with it now."""
    scale: float
    """The scale it is served at."""
    base_hash: str
    """SHA-256 of the base model that it was made for."""
    run: RunId | None
    """The run that made it."""
    file: str
    """Its file, relative to the data folder."""
    file_hash: str
    """SHA-256 of the file."""
    seed: int
    """Seed of the run."""
    created_at: int
    """Milliseconds since 1970."""
    config_json: str
    """The resolved configuration, as JSON."""
    manifest_json: str
    """The rest of the manifest, as JSON; `null` once forgotten."""
    decisions: list[AdapterDecision]
    """Decisions about it, the first one first."""
    verdict: Verdict | None
    """Where the votes stand, if it was ever on trial."""


@dataclass(frozen=True)
class Served:
    """What a base model is served with."""

    base_hash: str
    """SHA-256 of the base model."""
    adapter: AdapterId | None
    """The adapter; `None` for the base alone."""


@dataclass(frozen=True)
class Forgotten:
    """What was forgotten."""

    feedback: list[FeedbackId]
    """Events erased, withdrawals included."""
    replies: list[ReplyId]
    """Replies erased, later ones that quoted the item included."""
    messages: int
    """Turns of conversations erased."""
    votes: int
    """Votes erased, and side-by-sides."""
    heads: list[str]
    """SHA-256 of base models whose reward head was fitted on an erased event: it is gone."""
    adapters: list[AdapterId]
    """Adapters that had seen an erased event: never to be served again."""
    runs: list[RunId]
    """Runs that had seen one: never to be continued."""
    served: list[Served]
    """Base models whose active adapter was among them, with what they are served with from now on."""


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    lines: int
    """Lines written."""
    left_out: int
    """Events in effect that the format has no form for."""


@dataclass(frozen=True)
class Imported:
    """What an import came to."""

    rows: int
    """Lines read."""
    recorded: int
    """Events of feedback recorded."""
    known: int
    """Events that were in the log already."""
    passed: dict[str, int]
    """What was passed over, and how often: "tie", "too_long"."""


@dataclass(frozen=True)
class OpenReport:
    """What opening a folder found."""

    created: bool
    """There was no database; an empty one was created."""
    already_open: bool
    """The folder was open in this process already; this is the same instance."""
    migrated_from: int | None
    """The database was brought here from this older version."""
    moved_aside: str | None
    """The database was damaged. It lies here now, untouched, and an empty one took its place."""


@dataclass(frozen=True)
class ModelInfo:
    """Facts of the loaded model."""

    model_path: str
    """The model's file."""
    description: str
    """Architecture, size and quantization in words."""
    architecture: str
    """`general.architecture`."""
    n_ctx: int
    """Tokens that a conversation can have, its reply included."""
    n_ctx_train: int
    """Tokens that the model was trained for."""
    n_vocab: int
    """Tokens in the vocabulary."""
    n_threads: int
    """Compute threads."""
    n_gpu_layers: int | None
    """Layers on a GPU."""
    template_hash: str
    """SHA-256 of the chat template."""
    warnings: list[str]
    """What was asked for or expected and is not so, to be shown: a CPU fallback, a missing chat template."""


@dataclass(frozen=True)
class InferenceMemory:
    """What generation takes, in bytes."""

    weights: int
    """The mapped model."""
    cache: int
    """Keys and values of a whole context."""
    compute: int
    """What is computed with."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.compute


@dataclass(frozen=True)
class TrainingMemory:
    """What training takes, in bytes."""

    full_speed: int
    """Without a budget."""
    least: int
    """The smallest budget that works."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of resident memory, on the CPU."""

    inference: InferenceMemory
    """To generate."""
    training: TrainingMemory | None
    """To learn beside that; `None` where the model cannot be trained."""


class DeviceKind(_Named):
    """What kind of processor a device is."""

    CPU = enum.auto()
    """The host's CPU."""
    GPU = enum.auto()
    """A GPU with memory of its own."""
    INTEGRATED_GPU = enum.auto()
    """A GPU that shares the host's memory."""
    ACCELERATOR = enum.auto()
    """A CPU-side accelerator."""


@dataclass(frozen=True)
class Device:
    """One device."""

    name: str
    """The backend's name for it."""
    description: str
    """The vendor's description."""
    kind: DeviceKind
    """What kind of processor it is."""
    free_bytes: int
    """Bytes free now; 0 where unknown."""
    total_bytes: int
    """Bytes in all; 0 where unknown."""


@dataclass(frozen=True)
class Machine:
    """What computes here, and what can be learned on."""

    version: str
    """Version of the library."""
    ggml: str
    """How ggml was built, in its own words."""
    devices: list[Device]
    """What the linked backends can compute on."""
    cpu_features: list[str]
    """Instruction sets that the CPU backend was compiled for and found."""
    processors: int
    """Processors that this process may use."""
    encrypts: bool
    """Whether databases can be encrypted."""
    trainable_architectures: list[str]
    """`general.architecture` of models that can be trained."""
    trainable_types: list[str]
    """Types of matrices that can be trained on."""
