package dev.thumbprint

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Feedback is recorded at once, without a model, and can be taken back or erased. */
class FeedbackTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `recording never loads a model`() =
        test {
            Thumbprint.open(folder, model = File("/nowhere/model.gguf")).use { tp ->
                val all = listOf(Feedback.Up, Feedback.Down(), Feedback.Down(listOf("too long", "wrong")), Feedback.Edit("Better."))
                for (feedback in all) tp.recordExternal("About $feedback?", "An answer.", feedback)
                assertEquals(4, tp.readiness().have.events)
            }
        }

    @Test
    fun `a later verdict takes the place of an earlier one and can be withdrawn`() =
        test {
            inFolder(folder) { tp ->
                val reply = tp.generate("Hello", SHORT).await()
                val up = tp.record(reply, Feedback.Up)
                val down = tp.record(reply.id, Feedback.Down(listOf("too short")))
                assertTrue(down > up)
                assertEquals(listOf(FeedbackInEffect(down, Feedback.Down(listOf("too short")))), tp.feedbackOn(reply.id))
                tp.withdraw(down)
                // The one before it had been replaced for good.
                assertEquals(emptyList<FeedbackInEffect>(), tp.feedbackOn(reply.id))
                assertEquals(0, tp.readiness().have.events)
            }
        }

    @Test
    fun `every kind of feedback crosses and comes back`() =
        test {
            inFolder(folder) { tp ->
                val first = tp.generate("Name a colour.", SHORT).await()
                val second = tp.generate("Name a colour.", SHORT, replaces = first.id).await()
                tp.record(first, Feedback.Retry)
                tp.record(second, Feedback.Edit("Blue."))
                tp.record(second, Feedback.Prefer(over = first.id))
                val said = tp.feedbackOn(second.id).map { it.feedback }
                assertTrue(Feedback.Edit("Blue.") in said && Feedback.Prefer(first.id) in said)
                assertTrue(Feedback.Retry in tp.feedbackOn(first.id).map { it.feedback })
            }
        }

    @Test
    fun `a ranking crosses, comes back and leaves as a line`() =
        test {
            val out = File(folder, "out.jsonl")
            inFolder(File(folder, "data")) { tp ->
                val options = SHORT.copy(temperature = 2f)
                val (first, second, third) = List(3) { tp.generate("Name a colour.", options.copy(seed = it.toLong())).await() }
                tp.record(first, Feedback.Rank(over = listOf(third.id, second.id)))
                for (reply in listOf(first, third)) {
                    val said = tp.feedbackOn(reply.id).map { it.feedback }
                    assertEquals(listOf(Feedback.Rank(listOf(third.id, second.id))), said)
                }
                assertEquals(Tally(1, 1, 1), tp.readiness().have)
                throws<ThumbprintException.InvalidInput> { tp.record(first, Feedback.Rank(over = emptyList())) }
                assertEquals(Exported(1, 0), tp.exportFeedback(out, FeedbackFormat.RANKING))
            }
            inFolder(File(folder, "other")) { tp -> assertEquals(1, tp.importFeedback(out).recorded) }
        }

    @Test
    fun `filters of an import tell what they passed over`() =
        test {
            Thumbprint.open(File(folder, "data")).use { tp ->
                val lines = File(folder, "in.jsonl")
                lines.writeText(
                    listOf("Hi.", "hi", "x".repeat(300)).joinToString("") {
                        "{\"prompt\": \"Hello\", \"completion\": \"$it\", \"label\": true}\n"
                    },
                )

                suspend fun passed(filters: ImportFilters) = tp.importFeedback(lines, filters = filters).passed
                throws<ThumbprintException.InvalidInput> { passed(ImportFilters(patterns = listOf("("))) }
                throws<ThumbprintException.InvalidInput> { passed(ImportFilters(nearDuplicates = 2.0)) }
                throws<ThumbprintException.InvalidInput> { passed(ImportFilters(minChars = -1)) }
                assertEquals(mapOf("pattern" to 3L), passed(ImportFilters(patterns = listOf("^[Hh]i", "^x+$"))))
                assertEquals(mapOf("too_short" to 2L, "too_long" to 1L), passed(ImportFilters(minChars = 4, maxChars = 100)))
                assertEquals(mapOf("duplicate" to 1L, "too_long" to 1L), passed(ImportFilters(maxChars = 100, duplicates = true)))
            }
        }

    @Test
    fun `too little is told with both numbers`() =
        test {
            inFolder(folder) { tp ->
                tp.recordExternal("Hello", "Hi.", Feedback.Up)
                val readiness = tp.readiness()
                assertFalse(readiness.isReady)
                assertEquals(Outcome.NothingToLearn(readiness), tp.personalize().await())
                assertEquals(1L to 10L, readiness.have.events to readiness.need.events)
            }
        }

    @Test
    fun `what is forgotten is in no file`() =
        test {
            val secret = "xylophone-quartz"
            inFolder(folder) { tp ->
                val kept = tp.generate("Hello", SHORT).await()
                val reply = tp.generate("What is a $secret?", SHORT).await()
                val feedback = tp.record(reply, Feedback.Edit("A $secret is nothing."))
                val forgotten = tp.forget(ForgetTarget.Feedback(feedback))
                assertEquals(listOf(feedback) to listOf(reply.id), forgotten.feedback to forgotten.replies)
                throws<ThumbprintException.NotFound> { tp.record(reply, Feedback.Up) }
                tp.record(kept, Feedback.Up)
            }
            for (file in folder.walk().filter(File::isFile)) {
                assertFalse(secret in file.readText(Charsets.ISO_8859_1), file.path)
            }
        }

    @Test
    fun `a reply, a conversation and everything can be forgotten`() =
        test {
            inFolder(folder) { tp ->
                val reply = tp.generate("Hello", SHORT).await()
                assertEquals(listOf(reply.id), tp.forget(ForgetTarget.Reply(reply.id)).replies)
                val chat = tp.conversation()
                val answer = chat.send("Hello", SHORT).await()
                val forgotten = tp.forget(ForgetTarget.Conversation(chat.id))
                assertEquals(listOf(answer.id) to 2L, forgotten.replies to forgotten.messages)
                tp.recordExternal("Hello", "Hi.", Feedback.Up)
                assertEquals(1, tp.forget(ForgetTarget.Everything).feedback.size)
                assertEquals(0, tp.readiness().have.events)
            }
        }
}
