package dev.thumbprint

import dev.thumbprint.ffi.LoadListener
import dev.thumbprint.ffi.Options
import dev.thumbprint.internal.Natives
import dev.thumbprint.internal.background
import dev.thumbprint.internal.boundary
import dev.thumbprint.internal.cancellable
import dev.thumbprint.internal.listening
import dev.thumbprint.internal.long
import dev.thumbprint.internal.patient
import dev.thumbprint.internal.public
import dev.thumbprint.internal.quick
import dev.thumbprint.internal.translated
import dev.thumbprint.internal.unsigned
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.launch
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean

/**
 * A data folder with its model: where everything starts.
 *
 * May be used from any thread; calls from many at once are queued. Opening the same folder again in one process gives another handle
 * to the same instance; another process gets [ThumbprintException.FolderInUse]. After [close] every call throws
 * [ThumbprintException.Closed].
 *
 * No suspending function here blocks the thread that calls it.
 */
public class Thumbprint private constructor(
    internal val inner: dev.thumbprint.ffi.Thumbprint,
) : AutoCloseable {
    /**
     * Ends what runs through this object. The last one to close a folder also pauses its job, unloads the model and releases every
     * lock, which may take as long as one layer of training. From any thread, in any order, and again.
     */
    override fun close(): Unit = inner.shutdown()

    /** Whether [close] was called. */
    public val isClosed: Boolean get() = inner.isShutDown()

    /** What was found at opening: a database that was moved aside, say. */
    public suspend fun openReport(): OpenReport = quick { inner.openReport().public() }

    // ---- the model ----

    /**
     * Loads a model and puts its active adapter in force, telling [onProgress] how far it is, from 0 to 1, in the coroutine of the
     * caller. A caller that is cancelled, or whose [onProgress] throws, does not wait: loading is given up behind it, or, at the very
     * end, was done already.
     *
     * Throws [ThumbprintException.Model] where the file is no model, and [ThumbprintException.Adapter] where the active adapter's file
     * is damaged; the base is served then, until it is rolled back.
     */
    public suspend fun load(model: File, onProgress: suspend (Float) -> Unit = {}) {
        val fractions = Channel<Float>(Channel.UNLIMITED)
        val givenUp = AtomicBoolean()
        val listener =
            object : LoadListener {
                override fun onProgress(fraction: Float): Boolean {
                    fractions.trySend(fraction)
                    return !givenUp.get()
                }
            }
        background.launch {
            // Given up before a thread was free, it must not disturb what was loaded since.
            if (!givenUp.get()) {
                val loaded = runCatching { translated { inner.load(model.boundary(), listener) } }
                fractions.close(loaded.exceptionOrNull())
            }
        }
        try {
            for (fraction in fractions) onProgress(fraction)
        } catch (left: Throwable) {
            givenUp.set(true)
            throw left
        }
    }

    /** Unloads the model; it is loaded again at the next use. A running job is paused. */
    public suspend fun unload(): Unit = patient { inner.unload() }

    /** Facts of the model, which is loaded if need be. */
    public suspend fun modelInfo(): ModelInfo = long { inner.modelInfo().public() }

    /**
     * Computes the beginning of a conversation ahead of time, so that the next reply to it begins sooner. Returns how many tokens are
     * now kept.
     */
    public suspend fun prewarm(messages: List<Message>): Long {
        val prompt = messages.map { it.boundary() }
        return long { inner.prewarm(prompt).toLong() }
    }

    // ---- talking ----

    /** A reply to [request]. It begins once it is collected or waited for. */
    public fun generate(request: Request): Generation = Generation { inner.generate(request.boundary()) }

    /** A reply to a chat whose last message is to be answered. It begins once it is collected or waited for. */
    public fun generate(
        messages: List<Message>,
        options: GenerateOptions = GenerateOptions(),
        replaces: ReplyId? = null,
        by: By = By.Active,
    ): Generation = generate(Request(messages, options, replaces, by))

    /** A reply to one thing that the person says. It begins once it is collected or waited for. */
    public fun generate(
        prompt: String,
        options: GenerateOptions = GenerateOptions(),
        replaces: ReplyId? = null,
        by: By = By.Active,
    ): Generation = generate(listOf(Message.user(prompt)), options, replaces, by)

    /**
     * Generates several replies together, [maxParallel] at a time, and records them, in the order of the requests, which must agree in
     * [Request.by]. A coroutine that is cancelled meanwhile stops the model within one token.
     */
    public suspend fun generateBatch(requests: List<Request>, maxParallel: Int = 8): List<Reply> {
        val parallel = checkNotNull(maxParallel.unsigned("maxParallel"))
        val translated = requests.map { it.boundary() }
        val batch = long(abandoned = { it.cancel() }) { inner.startBatch(translated, parallel) }
        return try {
            long { batch.waitForReplies().map { it.public() } }
        } catch (left: Throwable) {
            batch.cancel()
            throw left
        }
    }

    /** A stored chat: a new one, or one that exists. */
    public suspend fun conversation(id: ConversationId? = null): Conversation =
        quick { Conversation(inner.conversation(id?.value), this) }

    /** Every stored chat, the latest used first. */
    public suspend fun conversations(): List<ConversationInfo> = quick { inner.conversations().map { it.public() } }

    // ---- feedback ----

    /**
     * Records what the person said about a reply. Never loads a model. A later verdict on the same reply replaces the earlier one. It
     * is on disk when this returns.
     */
    public suspend fun record(reply: ReplyId, feedback: Feedback): FeedbackId =
        quick { FeedbackId(inner.record(reply.value, feedback.boundary())) }

    /** The same for a reply at hand. */
    public suspend fun record(reply: Reply, feedback: Feedback): FeedbackId = record(reply.id, feedback)

    /** Records feedback on text that this library did not generate. */
    public suspend fun recordExternal(messages: List<Message>, completion: String, feedback: Feedback): FeedbackId =
        quick { FeedbackId(inner.recordExternal(messages.map { it.boundary() }, completion, feedback.boundary())) }

    /** The same for an answer to one thing that the person said. */
    public suspend fun recordExternal(prompt: String, completion: String, feedback: Feedback): FeedbackId =
        recordExternal(listOf(Message.user(prompt)), completion, feedback)

    /** Takes feedback back. The event stays in the log, without effect; [forget] erases. */
    public suspend fun withdraw(feedback: FeedbackId): FeedbackId = quick { FeedbackId(inner.withdraw(feedback.value)) }

    /** What is in effect on one reply, for showing a thumb as pressed. */
    public suspend fun feedbackOn(reply: ReplyId): List<FeedbackInEffect> =
        quick { inner.feedbackOn(reply.value).map { it.public() } }

    /**
     * Takes in feedback from a file, all of it or nothing. What was taken in before changes nothing. Without a format, the fields of
     * the first line decide. Throws [ThumbprintException.Import] with the line at fault.
     */
    public suspend fun importFeedback(
        path: File,
        format: FeedbackFormat? = null,
        filters: ImportFilters = ImportFilters(),
    ): Imported = patient { inner.importFeedback(path.boundary(), format?.boundary(), filters.boundary()).public() }

    /**
     * Writes feedback in effect to a file, in a form that TRL's trainers load or in that of a data set. The file is replaced whole or
     * not at all.
     */
    public suspend fun exportFeedback(path: File, format: FeedbackFormat = FeedbackFormat.PREFERENCE): Exported =
        patient { inner.exportFeedback(path.boundary(), format.boundary()).public() }

    // ---- learning ----

    /** Whether there is enough feedback to learn from, and how much is missing. Never loads a model. */
    public suspend fun readiness(): Readiness = quick { inner.readiness().public() }

    /** Starts to learn from the log, or attaches to the job that runs, or goes on with the one that rests (under the new budget). */
    public suspend fun personalize(budget: Budget = Budget()): PersonalizeJob =
        quick { PersonalizeJob(inner.personalize(budget.boundary(), null), this) }

    /** The same in another way than the product's, for comparing with it. A job that runs keeps its own. */
    public suspend fun personalize(budget: Budget, recipe: Recipe): PersonalizeJob =
        quick { PersonalizeJob(inner.personalize(budget.boundary(), recipe.boundary()), this) }

    /** The job that runs or is paused, if any. */
    public suspend fun currentJob(): PersonalizeJob? = quick { inner.currentJob()?.let { PersonalizeJob(it, this) } }

    // ---- versions of the adapter ----

    /** Every adapter ever made, the first one first. */
    public suspend fun adapters(): List<AdapterDetails> = quick { inner.adapters().map { it.public() } }

    /** One adapter. */
    public suspend fun adapter(id: AdapterId): AdapterDetails = quick { inner.adapter(id.value).public() }

    /** Serves replies with an adapter. One that was rolled back starts a new trial. */
    public suspend fun activate(id: AdapterId): Unit = patient { inner.activate(id.value) }

    /** Serves the base model alone, keeping the adapter as it is. */
    public suspend fun deactivate(): Unit = patient { inner.deactivate() }

    /** Takes the active adapter back and serves the one before it, or the base alone (`null`). */
    public suspend fun rollback(): AdapterId? = patient { inner.rollback()?.let(::AdapterId) }

    /**
     * Writes an adapter at full strength: the scale that it is served at is not in it. For PEFT's form the base model's file must be
     * at hand.
     */
    public suspend fun export(id: AdapterId, path: File, format: AdapterFormat = AdapterFormat.GGUF): Unit =
        patient { inner.export(id.value, path.boundary(), format.boundary()) }

    /**
     * Takes in an adapter's file or folder that names the model at hand as its base or, if you say so, names none. It becomes a
     * candidate that no gate has judged; one that is here already is left as it is.
     */
    public suspend fun importAdapter(path: File, acceptUnnamedBase: Boolean = false): AdapterId =
        patient { AdapterId(inner.importAdapter(path.boundary(), acceptUnnamedBase)) }

    /**
     * Makes an adapter that is the weighted sum of others: exactly, or the nearest one of a rank. It becomes a candidate that no gate
     * has judged, and is forgotten with any of the feedback that its parts learned from.
     */
    public suspend fun combine(parts: List<AdapterPart>, rank: Int? = null): AdapterId =
        patient { AdapterId(inner.combine(parts.map { it.boundary() }, rank.unsigned("rank"))) }

    /**
     * Writes a model that needs no adapter: the base with the adapter, as it is served, in its weights. Matrices become [tensorType],
     * "F32" or "Q8_0" say, or stay of their types without one.
     */
    public suspend fun merge(id: AdapterId, path: File, tensorType: String? = null): Merged =
        patient { inner.merge(id.value, path.boundary(), tensorType).public() }

    /** Records a blind vote, and acts on the evidence: promotes the adapter, or rolls it back. */
    public suspend fun recordVote(vote: Vote): Verdict = patient { inner.recordVote(vote.boundary()).public() }

    // ---- what replies are worth ----

    /**
     * What a stored reply is worth to the person. Throws [ThumbprintException.InvalidState] where there is no active adapter, or no head,
     * to judge it.
     */
    public suspend fun score(reply: ReplyId, judge: Judge = Judge.Active): Score =
        long { inner.score(reply.value, judge.boundary()).public() }

    /** What any reply to a conversation is worth, as one that the model ended itself. */
    public suspend fun scoreText(messages: List<Message>, text: String, judge: Judge = Judge.Active): Score =
        long { inner.scoreText(messages.map { it.boundary() }, text, judge.boundary()).public() }

    /** The same for an answer to one thing that the person said. */
    public suspend fun scoreText(prompt: String, text: String, judge: Judge = Judge.Active): Score =
        scoreText(listOf(Message.user(prompt)), text, judge)

    /**
     * Fits a head on the feedback in effect, in the place of the one before: a forward pass over every reply that was judged. It goes as
     * soon as one of the events that it was fitted on is forgotten. [l2] is the ridge, above 0; by default it is chosen. A coroutine that
     * is cancelled meanwhile ends it.
     */
    public suspend fun fitHead(l2: Double? = null): Head = cancellable { inner.fitHead(l2, it).public() }

    /** The head of the model at hand, if one was fitted. Never loads a model. */
    public suspend fun head(): Head? = quick { inner.head()?.public() }

    /** Drops the head of the model at hand; whether there was one. Never loads a model. */
    public suspend fun dropHead(): Boolean = quick { inner.dropHead() }

    // ---- blind side-by-sides ----

    /**
     * Two contestants answer, and what they say is recorded as a match, on sides drawn at random. Waits for both. A coroutine that is
     * cancelled meanwhile stops the model, and then nothing is recorded.
     */
    public suspend fun sideBySide(messages: List<Message>, contest: Contest): Match =
        cancellable { inner.sideBySide(messages.map { it.boundary() }, contest.boundary(), it).public() }

    /** The same for one thing that the person says. */
    public suspend fun sideBySide(prompt: String, contest: Contest): Match =
        sideBySide(listOf(Message.user(prompt)), contest)

    /** A match that was recorded. */
    public suspend fun sideBySideOf(id: MatchId): Match = quick { inner.sideBySideOf(id.value).public() }

    /** Matches of the model at hand that nobody has voted on, the first one first. Never loads a model. */
    public suspend fun openMatches(): List<Match> = quick { inner.openMatches().map { it.public() } }

    /**
     * Votes on a match, once, and tells who was on which side. In a conversation the better reply becomes the last turn, of equals the
     * left one. Between the base and an adapter on trial or promoted, the vote counts as those of [recordVote] do. Never loads a model.
     */
    public suspend fun vote(id: MatchId, choice: Choice): Voted =
        patient { inner.vote(id.value, choice.boundary()).public() }

    /**
     * Whether the next prompt should be answered twice for a blind vote, and by whom: with a probability of [share], by default 0.1, while
     * the adapter in use is on trial. Never loads a model.
     */
    public suspend fun contestDue(share: Double? = null): Contest? = quick { inner.contestDue(share)?.public() }

    /** What the votes on matches of the model at hand come to. Never loads a model. */
    public suspend fun arenaResults(): ArenaResults = patient { inner.arenaResults().public() }

    // ---- files of questions ----

    /**
     * Asks the multiple-choice questions of a file by log-likelihood, of an adapter or, without one, of the base. Without a format, the
     * fields of the first row decide. [onProgress] is told, in the coroutine of the caller, how many rows are done, and of how many. A
     * caller that is cancelled, or whose [onProgress] throws, does not wait: the evaluation ends behind it.
     */
    public suspend fun evaluateChoices(
        path: File,
        adapter: AdapterId? = null,
        format: ChoiceFormat? = null,
        onProgress: suspend (done: Long, total: Long) -> Unit = { _, _ -> },
    ): ChoiceReport =
        listening(onProgress) { inner.evaluateChoices(path.boundary(), adapter?.value, format?.boundary(), it).public() }

    /**
     * Asks the harmless prompts of a file, each in a conversation of its own, the likeliest token each time, and counts refusals. Nothing
     * is recorded. The rest is as with [evaluateChoices].
     */
    public suspend fun evaluateRefusals(
        path: File,
        adapter: AdapterId? = null,
        onProgress: suspend (done: Long, total: Long) -> Unit = { _, _ -> },
    ): RefusalReport =
        listening(onProgress) { inner.evaluateRefusals(path.boundary(), adapter?.value, it).public() }

    /** Asks a judge which of two replies is better, for every row of a file. The rest is as with [evaluateChoices]. */
    public suspend fun evaluateReward(
        path: File,
        judge: Judge = Judge.Active,
        onProgress: suspend (done: Long, total: Long) -> Unit = { _, _ -> },
    ): RewardReport =
        listening(onProgress) { inner.evaluateReward(path.boundary(), judge.boundary(), it).public() }

    // ---- forgetting and sleeping ----

    /**
     * Erases an item, what quotes it and everything that was made of it. A running job is cancelled. Adapters that learned from it are
     * gone; the next [personalize] makes one as if it had never been said.
     */
    public suspend fun forget(target: ForgetTarget): Forgotten = patient { inner.forget(target.boundary()).public() }

    /** Pauses a job, unloads the model and releases every lock on the folder. The next call takes them again. */
    public suspend fun suspend(): Unit = patient { inner.suspend() }

    /** Opening, and what needs no data folder. */
    public companion object {
        /**
         * Opens a data folder, which is made if it is missing. [model] is loaded at first use, or by [load]. Under a [key] of 32 random
         * bytes the database is encrypted, in builds that [Machine.encrypts]; once there is one, it opens under its key alone.
         *
         * Throws [ThumbprintException.FolderInUse], and [ThumbprintException.Storage] where the folder cannot be used or the key is
         * another one. A damaged database is moved aside instead, see [openReport].
         */
        public suspend fun open(
            dataDir: File,
            model: File? = null,
            engine: EngineOptions = EngineOptions(),
            key: ByteArray? = null,
        ): Thumbprint {
            val options = Options(dataDir.boundary(), model?.boundary(), engine.boundary(), key)
            return long(abandoned = Thumbprint::close) {
                Natives.require()
                Thumbprint(dev.thumbprint.ffi.Thumbprint.open(options))
            }
        }

        /** What this machine and this build have, without loading anything. */
        public suspend fun machine(): Machine =
            patient {
                Natives.require()
                dev.thumbprint.ffi.machine().public()
            }

        /**
         * What a model needs of memory for a context of [nCtx] tokens, and to learn from examples of [exampleTokens], from its file
         * alone: nothing is loaded.
         */
        public suspend fun estimateMemory(model: File, nCtx: Int = 4096, exampleTokens: Int = 512): MemoryEstimate {
            val context = checkNotNull(nCtx.unsigned("nCtx"))
            val example = checkNotNull(exampleTokens.unsigned("exampleTokens"))
            return patient {
                Natives.require()
                dev.thumbprint.ffi.estimateMemory(model.boundary(), context, example).public()
            }
        }

        /** SHA-256 of a file, in hex. */
        public suspend fun hashFile(path: File): String =
            patient {
                Natives.require()
                dev.thumbprint.ffi.hashFile(path.boundary())
            }

        /** Throws [ThumbprintException.Model] unless a downloaded model is the file that was meant. */
        public suspend fun verifyModel(path: File, sha256: String): Unit =
            patient {
                Natives.require()
                dev.thumbprint.ffi.verifyModel(path.boundary(), sha256)
            }

        /** Hands what the library logs to [sink] from now on, for the whole process; without one it is dropped. */
        public fun setLogSink(sink: LogSink?) {
            Natives.require()
            val forward =
                sink?.let {
                    object : dev.thumbprint.ffi.LogSink {
                        override fun onLog(record: dev.thumbprint.ffi.LogRecord) = it.log(record.public())
                    }
                }
            translated { dev.thumbprint.ffi.setLogSink(forward) }
        }
    }
}
