package dev.thumbprint.internal

import dev.thumbprint.Accuracy
import dev.thumbprint.AdapterDecision
import dev.thumbprint.AdapterDetails
import dev.thumbprint.AdapterId
import dev.thumbprint.AdapterState
import dev.thumbprint.Answer
import dev.thumbprint.ArenaResults
import dev.thumbprint.BestOf
import dev.thumbprint.Choice
import dev.thumbprint.ChoiceReport
import dev.thumbprint.Contest
import dev.thumbprint.ConversationId
import dev.thumbprint.ConversationInfo
import dev.thumbprint.CrossValidated
import dev.thumbprint.Decision
import dev.thumbprint.Device
import dev.thumbprint.DeviceKind
import dev.thumbprint.Event
import dev.thumbprint.Exported
import dev.thumbprint.Feedback
import dev.thumbprint.FeedbackId
import dev.thumbprint.FeedbackInEffect
import dev.thumbprint.Forgotten
import dev.thumbprint.GuardResult
import dev.thumbprint.Head
import dev.thumbprint.Imported
import dev.thumbprint.InferenceMemory
import dev.thumbprint.Interval
import dev.thumbprint.Judge
import dev.thumbprint.LogLevel
import dev.thumbprint.LogRecord
import dev.thumbprint.Machine
import dev.thumbprint.Match
import dev.thumbprint.MatchId
import dev.thumbprint.MemoryEstimate
import dev.thumbprint.Merged
import dev.thumbprint.Message
import dev.thumbprint.MessageId
import dev.thumbprint.ModelInfo
import dev.thumbprint.OfflineReport
import dev.thumbprint.OpenReport
import dev.thumbprint.Outcome
import dev.thumbprint.PairResult
import dev.thumbprint.Phase
import dev.thumbprint.Progress
import dev.thumbprint.Readiness
import dev.thumbprint.RefusalReport
import dev.thumbprint.Reply
import dev.thumbprint.ReplyId
import dev.thumbprint.RewardReport
import dev.thumbprint.Role
import dev.thumbprint.RunId
import dev.thumbprint.Sampling
import dev.thumbprint.ScaleReport
import dev.thumbprint.Score
import dev.thumbprint.Served
import dev.thumbprint.Side
import dev.thumbprint.StopReason
import dev.thumbprint.StoredMessage
import dev.thumbprint.Strength
import dev.thumbprint.Tally
import dev.thumbprint.TrainingMemory
import dev.thumbprint.Usage
import dev.thumbprint.Verdict
import dev.thumbprint.Voted
import java.io.File
import java.time.Instant

internal fun dev.thumbprint.ffi.Event.public(): Event =
    when (this) {
        is dev.thumbprint.ffi.Event.Token -> Event.Token(text)
        is dev.thumbprint.ffi.Event.Done -> Event.Done(reply.public())
    }

internal fun dev.thumbprint.ffi.Reply.public() =
    Reply(
        id = ReplyId(id),
        text = text,
        stopReason = StopReason.valueOf(stopReason.name),
        usage = usage.public(),
        tokensPerSecond = tokensPerSecond,
        sampling = sampling.public(),
        adapter = adapter?.let(::AdapterId),
        droppedMessages = droppedMessages.toInt(),
        bestOf = bestOf?.public(),
    )

internal fun dev.thumbprint.ffi.Usage.public() =
    Usage(promptTokens.toInt(), reusedTokens.toInt(), completionTokens.toInt(), firstTokenMs, decodeMs)

internal fun dev.thumbprint.ffi.Sampling.public() =
    Sampling(
        temperature = temperature,
        topK = topK.toInt(),
        topP = topP,
        minP = minP,
        repetitionPenalty = repetitionPenalty,
        repetitionWindow = repetitionWindow.toInt(),
        seed = seed.toLong(),
    )

internal fun dev.thumbprint.ffi.Message.public() = Message(Role.valueOf(role.name), content)

internal fun dev.thumbprint.ffi.ConversationInfo.public() =
    ConversationInfo(
        id = ConversationId(id),
        title = title,
        head = head?.let(::MessageId),
        createdAt = Instant.ofEpochMilli(createdAt),
        updatedAt = Instant.ofEpochMilli(updatedAt),
    )

internal fun dev.thumbprint.ffi.StoredMessage.public() =
    StoredMessage(
        id = MessageId(id),
        parent = parent?.let(::MessageId),
        message = message.public(),
        reply = reply?.let(::ReplyId),
        createdAt = Instant.ofEpochMilli(createdAt),
    )

internal fun dev.thumbprint.ffi.Feedback.public(): Feedback =
    when (this) {
        dev.thumbprint.ffi.Feedback.Up -> Feedback.Up
        is dev.thumbprint.ffi.Feedback.Down -> Feedback.Down(reasons)
        is dev.thumbprint.ffi.Feedback.Edit -> Feedback.Edit(text)
        is dev.thumbprint.ffi.Feedback.Prefer -> Feedback.Prefer(ReplyId(over))
        is dev.thumbprint.ffi.Feedback.Rank -> Feedback.Rank(over.map(::ReplyId))
        dev.thumbprint.ffi.Feedback.Retry -> Feedback.Retry
    }

internal fun dev.thumbprint.ffi.FeedbackInEffect.public() = FeedbackInEffect(FeedbackId(id), feedback.public())

internal fun dev.thumbprint.ffi.Tally.public() = Tally(events.toLong(), liked.toLong(), disliked.toLong())

internal fun dev.thumbprint.ffi.Readiness.public() =
    Readiness(isReady, have.public(), need.public(), examples.toLong())

internal fun dev.thumbprint.ffi.Progress.public() =
    Progress(Phase.valueOf(phase.name), step.toLong(), total.toLong(), loss, margin, etaSeconds)

internal fun dev.thumbprint.ffi.Outcome.public(): Outcome =
    when (this) {
        is dev.thumbprint.ffi.Outcome.Trial -> Outcome.Trial(AdapterId(adapter), report.public())
        is dev.thumbprint.ffi.Outcome.Rejected -> Outcome.Rejected(AdapterId(adapter), report.public())
        is dev.thumbprint.ffi.Outcome.TrialRunning -> Outcome.TrialRunning(AdapterId(adapter))
        is dev.thumbprint.ffi.Outcome.NothingToLearn -> Outcome.NothingToLearn(readiness.public())
        dev.thumbprint.ffi.Outcome.Paused -> Outcome.Paused
        dev.thumbprint.ffi.Outcome.Cancelled -> Outcome.Cancelled
    }

internal fun dev.thumbprint.ffi.OfflineReport.public() =
    OfflineReport(scale, reasons, thumbs.toLong(), heldOut.public(), scales.map { it.public() }, explanation)

internal fun dev.thumbprint.ffi.ScaleReport.public() = ScaleReport(scale, allowed, guards.map { it.public() })

internal fun dev.thumbprint.ffi.GuardResult.public() = GuardResult(name, value, atLeast, atMost, passed, sentence)

internal fun dev.thumbprint.ffi.Forgotten.public() =
    Forgotten(
        feedback = feedback.map(::FeedbackId),
        replies = replies.map(::ReplyId),
        messages = messages.toLong(),
        votes = votes.toLong(),
        heads = heads,
        adapters = adapters.map(::AdapterId),
        runs = runs.map(::RunId),
        served = served.map { Served(it.baseHash, it.adapter?.let(::AdapterId)) },
    )

internal fun dev.thumbprint.ffi.Judge.public(): Judge =
    when (this) {
        dev.thumbprint.ffi.Judge.Active -> Judge.Active
        is dev.thumbprint.ffi.Judge.Adapter -> Judge.Adapter(AdapterId(id))
        dev.thumbprint.ffi.Judge.Head -> Judge.Head
    }

internal fun dev.thumbprint.ffi.BestOf.public() = BestOf(judge.public(), chosen.toInt(), scores)

internal fun dev.thumbprint.ffi.Score.public() = Score(reward, perToken, tokens, logp, referenceLogp, beta)

internal fun dev.thumbprint.ffi.Interval.public() = Interval(low, high)

internal fun dev.thumbprint.ffi.Head.public() =
    Head(
        baseSha256 = baseSha256,
        templateHash = templateHash,
        bias = bias,
        l2 = l2,
        pairs = pairs.toLong(),
        singles = singles.toLong(),
        crossValidated = crossValidated?.public(),
    )

internal fun dev.thumbprint.ffi.CrossValidated.public() =
    CrossValidated(right.toLong(), of.toLong(), accuracy, interval.public())

internal fun dev.thumbprint.ffi.Contest.public() =
    Contest(a?.let(::AdapterId), b?.let(::AdapterId), seed = seed?.toLong())

internal fun dev.thumbprint.ffi.Match.public() =
    Match(MatchId(id), prompt.map { it.public() }, left.public(), right.public(), choice?.public())

internal fun dev.thumbprint.ffi.Side.public() =
    Side(ReplyId(reply), text, stopReason?.let { StopReason.valueOf(it.name) })

internal fun dev.thumbprint.ffi.Choice.public() = Choice.valueOf(name)

internal fun dev.thumbprint.ffi.Voted.public() =
    Voted(left?.let(::AdapterId), right?.let(::AdapterId), verdict?.public())

internal fun dev.thumbprint.ffi.ArenaResults.public() =
    ArenaResults(votes.toLong(), pairs.map { it.public() }, strengths.map { it.public() }, connected)

internal fun dev.thumbprint.ffi.PairResult.public() =
    PairResult(
        a = a?.let(::AdapterId),
        b = b?.let(::AdapterId),
        votes = votes.toLong(),
        wins = wins.toLong(),
        losses = losses.toLong(),
        ties = ties.toLong(),
        bothBad = bothBad.toLong(),
        winRate = winRate,
        interval = interval.public(),
        lengthControlledWinRate = lengthControlledWinRate,
        meanLengthDifference = meanLengthDifference,
    )

internal fun dev.thumbprint.ffi.Strength.public() =
    Strength(contestant?.let(::AdapterId), votes.toLong(), strength, interval.public())

internal fun dev.thumbprint.ffi.Accuracy.public() = Accuracy(right, n.toLong(), share, interval.public())

private fun Map<String, dev.thumbprint.ffi.Accuracy>.public() = mapValues { it.value.public() }

internal fun dev.thumbprint.ffi.ChoiceReport.public() =
    ChoiceReport(acc.public(), accNorm.public(), subjects.public(), answers.map { it.public() })

internal fun dev.thumbprint.ffi.Answer.public() = Answer(pick.toInt(), pickNorm.toInt(), gold.toInt())

internal fun dev.thumbprint.ffi.RefusalReport.public() =
    RefusalReport(refused.public(), types.public(), refusals, leftOut.toLong())

internal fun dev.thumbprint.ffi.RewardReport.public() =
    RewardReport(all.public(), subsets.public(), sections.public(), seen.toLong())

internal fun dev.thumbprint.ffi.Exported.public() = Exported(lines.toLong(), leftOut.toLong())

internal fun dev.thumbprint.ffi.Imported.public() =
    Imported(rows.toLong(), recorded.toLong(), known.toLong(), passed.mapValues { it.value.toLong() })

internal fun dev.thumbprint.ffi.AdapterDetails.public() =
    AdapterDetails(
        id = AdapterId(id),
        state = AdapterState.valueOf(state.name),
        explanation = explanation,
        active = active,
        scale = scale,
        baseHash = baseHash,
        run = run?.let(::RunId),
        file = file,
        fileHash = fileHash,
        seed = seed.toLong(),
        createdAt = Instant.ofEpochMilli(createdAt),
        configJson = configJson,
        manifestJson = manifestJson,
        decisions = decisions.map { it.public() },
        verdict = verdict?.public(),
    )

internal fun dev.thumbprint.ffi.Merged.public() = Merged(changed.toLong(), left)

internal fun dev.thumbprint.ffi.AdapterDecision.public() =
    AdapterDecision(Instant.ofEpochMilli(at), kind, explanation, numbersJson)

internal fun dev.thumbprint.ffi.Verdict.public() =
    Verdict(
        decision = Decision.valueOf(decision.name),
        wins = wins.toLong(),
        losses = losses.toLong(),
        ties = ties.toLong(),
        evidence = evidence,
        evidenceAgainst = evidenceAgainst,
        promoteAt = promoteAt,
        rollBackAt = rollBackAt,
        replaceable = replaceable,
        explanation = explanation,
    )

internal fun dev.thumbprint.ffi.Machine.public() =
    Machine(
        version = version,
        ggml = ggml,
        devices = devices.map { it.public() },
        cpuFeatures = cpuFeatures,
        processors = processors.toLong(),
        encrypts = encrypts,
        trainableArchitectures = trainableArchitectures,
        trainableTypes = trainableTypes,
    )

internal fun dev.thumbprint.ffi.Device.public() =
    Device(name, description, DeviceKind.valueOf(kind.name), freeBytes.toLong(), totalBytes.toLong())

internal fun dev.thumbprint.ffi.ModelInfo.public() =
    ModelInfo(
        modelPath = File(modelPath),
        description = description,
        architecture = architecture,
        nCtx = nCtx.toInt(),
        nCtxTrain = nCtxTrain.toInt(),
        nVocab = nVocab.toLong(),
        nThreads = nThreads.toInt(),
        nGpuLayers = nGpuLayers?.toInt(),
        templateHash = templateHash,
        warnings = warnings,
    )

internal fun dev.thumbprint.ffi.MemoryEstimate.public() =
    MemoryEstimate(inference.public(), training?.public())

internal fun dev.thumbprint.ffi.InferenceMemory.public() =
    InferenceMemory(weights.toLong(), cache.toLong(), compute.toLong())

internal fun dev.thumbprint.ffi.TrainingMemory.public() = TrainingMemory(fullSpeed.toLong(), least.toLong())

internal fun dev.thumbprint.ffi.OpenReport.public() =
    OpenReport(created, alreadyOpen, migratedFrom?.toInt(), movedAside?.let(::File))

internal fun dev.thumbprint.ffi.LogRecord.public() = LogRecord(LogLevel.valueOf(level.name), target, text)
