package dev.thumbprint.internal

import dev.thumbprint.AdapterFormat
import dev.thumbprint.AdapterPart
import dev.thumbprint.Budget
import dev.thumbprint.By
import dev.thumbprint.Choice
import dev.thumbprint.ChoiceFormat
import dev.thumbprint.Contest
import dev.thumbprint.EngineOptions
import dev.thumbprint.Feedback
import dev.thumbprint.FeedbackFormat
import dev.thumbprint.FlashAttention
import dev.thumbprint.GenerateOptions
import dev.thumbprint.GuardFile
import dev.thumbprint.ImportFilters
import dev.thumbprint.Judge
import dev.thumbprint.KvType
import dev.thumbprint.Message
import dev.thumbprint.Overflow
import dev.thumbprint.Recipe
import dev.thumbprint.Request
import dev.thumbprint.Role
import dev.thumbprint.ForgetTarget
import dev.thumbprint.ThumbprintException
import dev.thumbprint.Vote
import dev.thumbprint.VoteOutcome
import java.io.File

internal fun Message.boundary() = dev.thumbprint.ffi.Message(role.boundary(), content)

internal fun Request.boundary() =
    dev.thumbprint.ffi.Request(messages.map { it.boundary() }, options.boundary(), replaces?.value, by.boundary())

internal fun By.boundary(): dev.thumbprint.ffi.By =
    when (this) {
        By.Active -> dev.thumbprint.ffi.By.Active
        By.Base -> dev.thumbprint.ffi.By.Base
        is By.Adapter -> dev.thumbprint.ffi.By.Adapter(id.value)
    }

internal fun EngineOptions.boundary() =
    dev.thumbprint.ffi.EngineOptions(
        nCtx = nCtx.unsigned("nCtx"),
        nBatch = nBatch.unsigned("nBatch"),
        nThreads = nThreads.unsigned("nThreads"),
        nGpuLayers = nGpuLayers.unsigned("nGpuLayers"),
        useMmap = useMmap,
        repack = repack,
        flashAttention = flashAttention?.boundary(),
        kvType = kvType?.boundary(),
    )

internal fun GenerateOptions.boundary() =
    dev.thumbprint.ffi.GenerateOptions(
        maxTokens = maxTokens.unsigned("maxTokens"),
        temperature = temperature,
        topK = topK.unsigned("topK"),
        topP = topP,
        minP = minP,
        repetitionPenalty = repetitionPenalty,
        repetitionWindow = repetitionWindow.unsigned("repetitionWindow"),
        // All 64 bits are a seed.
        seed = seed?.toULong(),
        stop = stop,
        overflow = overflow?.boundary(),
        bestOf = bestOf.unsigned("bestOf"),
        judge = judge?.boundary(),
    )

internal fun Judge.boundary(): dev.thumbprint.ffi.Judge =
    when (this) {
        Judge.Active -> dev.thumbprint.ffi.Judge.Active
        is Judge.Adapter -> dev.thumbprint.ffi.Judge.Adapter(id.value)
        Judge.Head -> dev.thumbprint.ffi.Judge.Head
    }

internal fun Contest.boundary() = dev.thumbprint.ffi.Contest(a?.value, b?.value, options.boundary(), seed?.toULong())

internal fun Recipe.boundary() =
    dev.thumbprint.ffi.Recipe(choices?.boundary(), refusals?.boundary(), settingsJson)

internal fun GuardFile.boundary() = dev.thumbprint.ffi.GuardFile(path.boundary(), tolerated)

internal fun Budget.boundary() =
    dev.thumbprint.ffi.Budget(
        memoryMib = memoryMib.unsigned("memoryMib"),
        seconds = seconds.unsigned("seconds"),
        nThreads = nThreads.unsigned("nThreads"),
        seed = seed?.toULong(),
        maxExampleTokens = maxExampleTokens.unsigned("maxExampleTokens"),
        replaceTrial = replaceTrial,
        gpu = gpu,
        requireGpu = requireGpu,
        onlineRounds = onlineRounds.unsigned("onlineRounds"),
    )

internal fun ImportFilters.boundary() =
    dev.thumbprint.ffi.ImportFilters(
        minChars = minChars.unsigned("minChars"),
        maxChars = maxChars.unsigned("maxChars"),
        refusals = refusals,
        boilerplate = boilerplate,
        patterns = patterns,
        duplicates = duplicates,
        nearDuplicates = nearDuplicates,
    )

internal fun Feedback.boundary(): dev.thumbprint.ffi.Feedback =
    when (this) {
        Feedback.Up -> dev.thumbprint.ffi.Feedback.Up
        is Feedback.Down -> dev.thumbprint.ffi.Feedback.Down(reasons)
        is Feedback.Edit -> dev.thumbprint.ffi.Feedback.Edit(text)
        is Feedback.Prefer -> dev.thumbprint.ffi.Feedback.Prefer(over.value)
        is Feedback.Rank -> dev.thumbprint.ffi.Feedback.Rank(over.map { it.value })
        Feedback.Retry -> dev.thumbprint.ffi.Feedback.Retry
    }

internal fun ForgetTarget.boundary(): dev.thumbprint.ffi.Target =
    when (this) {
        is ForgetTarget.Feedback -> dev.thumbprint.ffi.Target.Feedback(id.value)
        is ForgetTarget.Reply -> dev.thumbprint.ffi.Target.Reply(id.value)
        is ForgetTarget.Conversation -> dev.thumbprint.ffi.Target.Conversation(id.value)
        ForgetTarget.Everything -> dev.thumbprint.ffi.Target.Everything
    }

internal fun AdapterPart.boundary() = dev.thumbprint.ffi.AdapterPart(adapter.value, weight)

internal fun Vote.boundary() =
    dev.thumbprint.ffi.Vote(
        adapter.value,
        outcome.boundary(),
        candidateFirst,
        candidateReply?.value,
        baselineReply?.value,
    )

internal fun Role.boundary() = dev.thumbprint.ffi.Role.valueOf(name)

internal fun Overflow.boundary() = dev.thumbprint.ffi.Overflow.valueOf(name)

internal fun FlashAttention.boundary() = dev.thumbprint.ffi.FlashAttention.valueOf(name)

internal fun KvType.boundary() = dev.thumbprint.ffi.KvType.valueOf(name)

internal fun FeedbackFormat.boundary() = dev.thumbprint.ffi.FeedbackFormat.valueOf(name)

internal fun AdapterFormat.boundary() = dev.thumbprint.ffi.AdapterFormat.valueOf(name)

internal fun Choice.boundary() = dev.thumbprint.ffi.Choice.valueOf(name)

internal fun ChoiceFormat.boundary() = dev.thumbprint.ffi.ChoiceFormat.valueOf(name)

internal fun VoteOutcome.boundary() = dev.thumbprint.ffi.VoteOutcome.valueOf(name)

/** As the library takes a path: from the root, since that does not change with the process's working folder. */
internal fun File.boundary(): String = absolutePath

internal fun Int?.unsigned(name: String): UInt? = this?.also { refuseNegative(it.toLong(), name) }?.toUInt()

internal fun Long?.unsigned(name: String): ULong? = this?.also { refuseNegative(it, name) }?.toULong()

/** As an unsigned number it would be a huge one. */
private fun refuseNegative(value: Long, name: String) {
    if (value < 0) {
        throw ThumbprintException.InvalidInput("invalid_option", "$name is $value, where 0 and more are allowed")
    }
}
