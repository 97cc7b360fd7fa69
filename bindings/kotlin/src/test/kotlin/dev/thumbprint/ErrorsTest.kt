package dev.thumbprint

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.reflect.KClass

/** Errors by class, with codes, words and numbers; and never with what a person wrote. */
class ErrorsTest {
    @TempDir
    lateinit var folder: File

    private data class Case(
        val error: KClass<out ThumbprintException>,
        val code: String,
        val call: suspend (Thumbprint) -> Any?,
    )

    private val cases =
        listOf(
            Case(ThumbprintException.NotFound::class, "unknown_reply") { it.record(ReplyId(99), Feedback.Up) },
            Case(ThumbprintException.NotFound::class, "unknown_feedback") { it.withdraw(FeedbackId(99)) },
            Case(ThumbprintException.NotFound::class, "unknown_conversation") { it.conversation(ConversationId(99)) },
            Case(ThumbprintException.NotFound::class, "unknown_adapter") { it.adapter(AdapterId(99)) },
            Case(ThumbprintException.NotFound::class, "unknown_adapter") { it.activate(AdapterId(99)) },
            Case(ThumbprintException.InvalidState::class, "no_active_adapter") { it.rollback() },
            Case(ThumbprintException.InvalidState::class, "nothing_to_regenerate") { it.conversation().regenerate().await() },
            Case(ThumbprintException.InvalidState::class, "nothing_to_edit") { it.conversation().edit("x") },
            Case(ThumbprintException.InvalidInput::class, "empty_prompt") { it.generate(emptyList()).await() },
            Case(ThumbprintException.InvalidInput::class, "empty_prompt") { it.conversation().send("  ").await() },
            Case(ThumbprintException.InvalidInput::class, "invalid_option") {
                it.generate("Hello", GenerateOptions(maxTokens = 0)).await()
            },
            Case(ThumbprintException.InvalidInput::class, "invalid_option") {
                it.generate("Hello", GenerateOptions(maxTokens = -1)).await()
            },
            Case(ThumbprintException.InvalidInput::class, "invalid_option") {
                it.generate("Hello", GenerateOptions(topP = 2f)).await()
            },
            Case(ThumbprintException.InvalidInput::class, "invalid_option") { it.personalize(Budget(memoryMib = -1)) },
            Case(ThumbprintException.InvalidInput::class, "empty_text") { it.recordExternal("Hello", "", Feedback.Up) },
            Case(ThumbprintException.Model::class, "model_file") { it.load(File("/nowhere/model.gguf")) },
            Case(ThumbprintException.File::class, "file") { it.exportFeedback(File("/nowhere/out.jsonl")) },
            Case(ThumbprintException.Import::class, "import") { it.importFeedback(File("/nowhere/in.jsonl")) },
        )

    @Test
    fun `an error has its class and code`() =
        test {
            inFolder(folder) { tp ->
                for ((cls, code, call) in cases) {
                    val error = throws<ThumbprintException> { call(tp) }
                    assertEquals(cls to code, error::class to error.code, error.reason)
                    assertTrue(error.reason.isNotEmpty() && error.message == error.reason)
                }
            }
        }

    @Test
    fun `a prompt that is too long tells both numbers`() =
        test {
            inFolder(folder) { tp ->
                val error = throws<ThumbprintException.PromptTooLong> { tp.generate("word ".repeat(2000)).await() }
                assertEquals(1024, error.nCtx)
                assertTrue(error.promptTokens > 2000)
            }
        }

    @Test
    fun `an overflow that is allowed drops old turns`() =
        test {
            inFolder(folder) { tp ->
                val chat = tp.conversation()
                repeat(3) { chat.send("$it " + "word ".repeat(300), SHORT).await() }
                throws<ThumbprintException.PromptTooLong> { chat.send("word ".repeat(300), SHORT).await() }
                val options = GenerateOptions(maxTokens = 12, overflow = Overflow.TRUNCATE_OLDEST_TURNS)
                assertTrue(chat.send("word ".repeat(300), options).await().droppedMessages > 0)
            }
        }

    @Test
    fun `a model that was never named`() =
        test {
            Thumbprint.open(folder).use { tp ->
                assertEquals("no_model", throws<ThumbprintException.InvalidState> { tp.generate("Hello").await() }.code)
            }
        }

    @Test
    fun `a folder that is a file`() =
        test {
            val file = File(folder, "file").apply { writeText("") }
            assertTrue("file" in throws<ThumbprintException.Storage> { Thumbprint.open(file) }.reason)
        }

    @Test
    fun `a download that was cut short`() =
        test {
            val cut = File(folder, "cut.gguf")
            MODEL.inputStream().use { whole -> cut.writeBytes(whole.readNBytes(1_000_000)) }
            val hash = Thumbprint.hashFile(MODEL)
            Thumbprint.verifyModel(MODEL, hash)
            Thumbprint.verifyModel(MODEL, hash.uppercase())
            assertEquals("wrong_hash", throws<ThumbprintException.Model> { Thumbprint.verifyModel(cut, hash) }.code)
            Thumbprint.open(File(folder, "data"), model = cut).use { tp ->
                throws<ThumbprintException.Model> { tp.generate("Hello").await() }
            }
        }

    @Test
    fun `no error quotes what a person wrote`() =
        test {
            val secret = "my-secret-words"
            inFolder(folder) { tp ->
                val reply = tp.generate("Hello", SHORT).await()
                val other = tp.generate(secret, SHORT).await()
                val attempts =
                    listOf<suspend () -> Any?>(
                        { tp.generate("$secret ".repeat(2000)).await() },
                        { tp.record(reply, Feedback.Prefer(over = other.id)) },
                        { tp.record(reply, Feedback.Edit(" ")) },
                    )
                for (attempt in attempts) {
                    assertFalse(secret in throws<ThumbprintException> { attempt() }.reason)
                }
            }
        }

    @Test
    fun `a line that cannot be used is named and nothing is taken in`() =
        test {
            inFolder(File(folder, "data")) { tp ->
                val lines = File(folder, "in.jsonl")
                lines.writeText("{\"prompt\": \"Hello\", \"completion\": \"Hi.\", \"label\": true}\nnot json\n")
                assertEquals(2, throws<ThumbprintException.Import> { tp.importFeedback(lines) }.line)
                assertEquals(0, tp.readiness().have.events)
            }
        }

    @Test
    fun `feedback leaves and comes in the forms of TRL`() =
        test {
            val out = File(folder, "out.jsonl")
            inFolder(File(folder, "data")) { tp ->
                tp.recordExternal("Hello", "Hi.", Feedback.Up)
                assertEquals(Exported(1, 0), tp.exportFeedback(out, FeedbackFormat.UNPAIRED))
            }
            out.appendText("{\"prompt\": \"Hello\", \"completion\": \"${"x".repeat(300)}\", \"label\": true}\n")
            inFolder(File(folder, "other")) { tp ->
                val imported = tp.importFeedback(out, filters = ImportFilters(maxChars = 100))
                assertEquals(Imported(2, 1, 0, mapOf("too_long" to 1L)), imported)
                assertEquals(1, tp.importFeedback(out, FeedbackFormat.UNPAIRED, ImportFilters(maxChars = 100)).known)
            }
        }

    @Test
    fun `the machine and the memory are told without loading`() =
        test {
            val machine = Thumbprint.machine()
            assertTrue(machine.devices.any { it.kind == DeviceKind.CPU })
            assertTrue("llama" in machine.trainableArchitectures)
            val estimate = Thumbprint.estimateMemory(MODEL, nCtx = 1024, exampleTokens = 512)
            // 30 blocks of 3 heads of 64, keys and values, two bytes each.
            assertEquals(30L * 3 * 128 * 1024 * 2, estimate.inference.cache)
            assertTrue(estimate.inference.total > estimate.inference.weights)
            val training = estimate.training!!
            assertTrue(training.least < training.fullSpeed)
            throws<ThumbprintException.Model> { Thumbprint.estimateMemory(File(folder, "absent.gguf")) }
        }

    @Test
    fun `under a key nothing can be read without it or the build says that it cannot encrypt`() =
        test {
            val key = ByteArray(32) { it.toByte() }
            assertEquals("key_length", throws<ThumbprintException.InvalidInput> { Thumbprint.open(folder, key = ByteArray(5)) }.code)
            if (!Thumbprint.machine().encrypts) {
                assertEquals("cannot_encrypt", throws<ThumbprintException.Storage> { Thumbprint.open(folder, key = key) }.code)
                return@test
            }
            Thumbprint.open(folder, key = key).use { it.recordExternal("xylophone", "quartz", Feedback.Up) }
            assertTrue(folder.walk().filter(File::isFile).none { "quartz" in it.readText(Charsets.ISO_8859_1) })
            assertEquals("wrong_key", throws<ThumbprintException.Storage> { Thumbprint.open(folder, key = ByteArray(32)) }.code)
            assertEquals("key_needed", throws<ThumbprintException.Storage> { Thumbprint.open(folder) }.code)
            Thumbprint.open(folder, key = key).use { assertEquals(1, it.readiness().have.events) }
        }
}
