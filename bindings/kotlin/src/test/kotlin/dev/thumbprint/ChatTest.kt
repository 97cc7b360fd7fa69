package dev.thumbprint

import dev.thumbprint.internal.boundary
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.selects.select
import kotlinx.coroutines.yield
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Assertions.fail
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Loading, streaming, cancelling, and stored chats. */
class ChatTest {
    @TempDir
    lateinit var folder: File

    private class Oops : Exception("of the app")

    @Test
    fun `loading tells how far it is and ends at one`() =
        test {
            val heard = mutableListOf<Float>()
            Thumbprint.open(folder).use { tp ->
                tp.load(MODEL) { heard += it }
                val info = tp.modelInfo()
                assertEquals("llama" to MODEL.absoluteFile, info.architecture to info.modelPath)
            }
            assertEquals(heard.sorted(), heard)
            assertTrue(heard.size > 2 && heard.last() == 1f, "$heard")
        }

    @Test
    fun `what a lambda throws ends loading and comes out unchanged`() =
        test {
            inFolder(folder) { tp ->
                throws<Oops> { tp.load(MODEL) { throw Oops() } }
                // Nothing is broken by it.
                tp.load(MODEL)
                assertTrue(tp.generate("Hello", SHORT).await().text.isNotEmpty())
            }
        }

    @Test
    fun `a lambda may call anything while a model loads`() =
        test {
            inFolder(folder) { tp ->
                var reply: Reply? = null
                tp.load(MODEL) {
                    // Waits for the model that is being loaded.
                    if (reply == null) reply = tp.generate("Hello", SHORT).await()
                }
                assertTrue(reply!!.text.isNotEmpty())
            }
        }

    @Test
    fun `a cancelled coroutine gives up loading and does not wait for it`() =
        test {
            Thumbprint.open(folder).use { tp ->
                val begun = CompletableDeferred<Unit>()
                val loading =
                    launch {
                        tp.load(MODEL) {
                            begun.complete(Unit)
                            delay(Long.MAX_VALUE)
                        }
                    }
                begun.await()
                loading.cancelAndJoin()
                tp.load(MODEL)
                assertEquals("llama", tp.modelInfo().architecture)
            }
        }

    @Test
    fun `pieces come in order and make up the reply`() =
        test {
            inFolder(folder) { tp ->
                val events = tp.generate("Why do cats purr?", MEDIUM).events.toList()
                val reply = (events.last() as Event.Done).reply
                val tokens = events.dropLast(1).map { (it as Event.Token).text }
                assertTrue(tokens.all(String::isNotEmpty))
                assertEquals(reply.text, tokens.joinToString(""))
                assertTrue(tokens.size > 20)
                assertTrue(reply.usage.completionTokens >= tokens.size)
                assertTrue(reply.tokensPerSecond > 0)
                assertNull(reply.adapter)
            }
        }

    @Test
    fun `a slow collector drops nothing and holds nothing up`() =
        test {
            inFolder(folder) { tp ->
                val generation = tp.generate("Why do cats purr?", MEDIUM)
                var text = ""
                generation.text.onEach { piece ->
                    // The reply is complete while the first of its pieces is looked at.
                    if (text.isEmpty()) generation.await()
                    text += piece
                }.collect()
                assertEquals(generation.await().text, text)
                assertTrue(text.length > 80)
            }
        }

    @Test
    fun `a generation is collected once and waited for as often as one likes`() =
        test {
            inFolder(folder) { tp ->
                val generation = tp.generate("Hello", SHORT)
                val reply = generation.await()
                assertEquals(reply, generation.await())
                assertEquals(reply, (generation.events.toList().last() as Event.Done).reply)
                throws<IllegalStateException> { generation.events.toList() }
                generation.cancel()
                assertEquals(reply, generation.await())
            }
        }

    @Test
    fun `the same seed gives the same reply and no seed another`() =
        test {
            inFolder(folder) { tp ->
                suspend fun text(seed: Long?): String {
                    val options = GenerateOptions(maxTokens = 24, temperature = 1f, seed = seed)
                    return tp.generate("Tell me a story.", options).await().text
                }
                // The prompt is not read again from here on, which rounds otherwise than reading it at once.
                text(7)
                assertEquals(text(7), text(7))
                assertTrue(List(4) { text(null) }.toSet().size > 1)
            }
        }

    @Test
    fun `options cross as they are`() =
        test {
            inFolder(folder) { tp ->
                val options = GenerateOptions(40, 0.5f, 7, 0.5f, 0.25f, 1.5f, 5, -3)
                val sampling = tp.generate("Hello", options).await().sampling
                assertEquals(Sampling(0.5f, 7, 0.5f, 0.25f, 1.5f, 5, -3), sampling)
            }
        }

    @Test
    fun `a stop string ends the reply before it`() =
        test {
            inFolder(folder) { tp ->
                tp.generate("Count to ten.", SHORT).await()
                val whole = tp.generate("Count to ten.", SHORT).await().text
                val stop = whole.substring(10, 14)
                val reply = tp.generate("Count to ten.", SHORT.copy(stop = listOf(stop))).await()
                assertEquals(StopReason.STOP_STRING, reply.stopReason)
                assertEquals(whole.substringBefore(stop), reply.text)
            }
        }

    @Test
    fun `cancelling from the collector ends within a token and records what there is`() =
        test {
            inFolder(folder) { tp ->
                val generation = tp.generate("Tell me a long story.", LONG)
                generation.text.collect { generation.cancel() }
                val reply = generation.await()
                assertEquals(StopReason.CANCELLED, reply.stopReason)
                assertTrue(reply.usage.completionTokens in 1..99)
                tp.record(reply, Feedback.Up)
            }
        }

    @Test
    fun `a cancelled coroutine stops the model and the conversation keeps what there is`() =
        test {
            inFolder(folder) { tp ->
                val chat = tp.conversation()
                val generation = chat.send("Tell me a long story.", LONG)
                val begun = CompletableDeferred<Unit>()
                val talking = launch { generation.text.collect { begun.complete(Unit) } }
                begun.await()
                talking.cancelAndJoin()
                val reply = generation.await()
                assertEquals(StopReason.CANCELLED, reply.stopReason)
                assertTrue(reply.usage.completionTokens < 400)
                assertEquals(reply.id, chat.messages().last().reply)

                // One that waits, too, and one that was never begun.
                val waiting = tp.generate("Tell me a long story.", LONG)
                val task = launch { waiting.await() }
                yield()
                task.cancelAndJoin()
                assertEquals(StopReason.CANCELLED, waiting.await().stopReason)
                val never = tp.generate("Tell me a long story.", LONG)
                never.cancel()
                assertEquals(StopReason.CANCELLED, never.await().stopReason)
            }
        }

    @Test
    fun `a collector that has enough stops the model`() =
        test {
            inFolder(folder) { tp ->
                val generation = tp.generate("Tell me a long story.", LONG)
                assertEquals(3, generation.text.take(3).toList().size)
                val reply = generation.await()
                assertEquals(StopReason.CANCELLED, reply.stopReason)
                assertTrue(reply.usage.completionTokens < 100)
            }
        }

    @Test
    fun `an exception in the collector comes out unchanged and stops the model`() =
        test {
            inFolder(folder) { tp ->
                val generation = tp.generate("Tell me a long story.", LONG)
                throws<Oops> { generation.events.collect { throw Oops() } }
                val reply = generation.await()
                assertEquals(StopReason.CANCELLED, reply.stopReason)
                assertTrue(reply.usage.completionTokens < 100)
            }
        }

    @Test
    fun `cancelling while the prompt is read ends without a token`() =
        test {
            val items = List(150) { "item $it" }
            // In small pieces, so that some of them are read before it is cancelled and some are not.
            Thumbprint.open(folder, MODEL, EngineOptions(nCtx = 1024, nBatch = 32, nThreads = 1)).use { tp ->
                tp.modelInfo()
                // Nothing tells how far the reading is: a moment that was too short is doubled, with another prompt.
                for (n in 0 until 10) {
                    val generation = tp.generate("List number $n: ${items.joinToString()}", LONG)
                    val events = async(Dispatchers.Default) { generation.events.toList() }
                    delay(50L shl n)
                    generation.cancel()
                    val done = events.await().single() as Event.Done
                    assertEquals(StopReason.CANCELLED to "", done.reply.stopReason to done.reply.text)
                    // What had been read by then is not read again; so the model's instructions, of the prompt before.
                    val beginning = "List number $n: ${items.take(40).joinToString()}"
                    if (tp.generate(beginning, GenerateOptions(maxTokens = 1)).await().usage.reusedTokens >= 96) return@test
                }
                fail<Unit>("reading never began")
            }
        }

    @Test
    fun `fifty calls at once are queued`() =
        test {
            inFolder(folder) { tp ->
                val options = GenerateOptions(maxTokens = 4, temperature = 0f)
                val replies =
                    (0 until 50).map { n ->
                        async(Dispatchers.Default) {
                            val reply = tp.generate("What is $n plus one?", options).await()
                            tp.record(reply, Feedback.Up)
                            reply.id
                        }
                    }
                assertEquals(50, replies.awaitAll().toSet().size)
                assertEquals(50, tp.readiness().have.events)
            }
        }

    @Test
    fun `a thumb and a command do not wait behind replies`() =
        test {
            inFolder(folder) { tp ->
                val reply = tp.generate("Hello", SHORT).await()
                // More than there are threads for them.
                val many = List(80) { n -> tp.generate("Tell me $n long stories.", LONG) }
                val waiting = many.map { async(Dispatchers.Default) { runCatching { it.await() } } }
                delay(100)
                tp.record(reply, Feedback.Up)
                assertEquals(1, tp.readiness().have.events)
                assertTrue(waiting.none { it.isCompleted }, "a thumb waited for a reply")
                // It ends the ones that run, and those that wait; what had no thread yet loads the model again.
                tp.unload()
                val first = select { waiting.forEach { one -> one.onAwait { it } } }
                assertTrue(first.fold({ it.stopReason == StopReason.CANCELLED }, { true }), "unloading waited for a reply")
                many.forEach { it.cancel() }
                waiting.awaitAll()
            }
        }

    @Test
    fun `a batch answers in the order of its requests and can be cancelled`() =
        test {
            inFolder(folder) { tp ->
                val questions = listOf("France", "Italy", "Spain").map { "What is the capital of $it?" }
                val replies = tp.generateBatch(questions.map { Request(it, SHORT) }, maxParallel = 2)
                val alone = questions.map { tp.generate(it, SHORT).await().text }
                // Products of several rows are rounded otherwise, so a later token may differ.
                assertEquals(alone.map { it.take(4) }, replies.map { it.text.take(4) })
                assertEquals(3, replies.map { it.id }.toSet().size)

                val batch = launch { tp.generateBatch(List(8) { Request("Tell me a long story.", LONG) }) }
                delay(50)
                batch.cancelAndJoin()
                // It would have taken eight times 400 tokens.
                assertTrue(tp.generate("Hello", SHORT).await().usage.firstTokenMs < 20_000)
            }
        }

    @Test
    fun `what was prewarmed is not read again`() =
        test {
            inFolder(folder) { tp ->
                val system = Message.system("You are a helpful assistant who knows everything about the history of tea. ".repeat(4))
                val kept = tp.prewarm(listOf(system, Message.user("When")))
                val usage = tp.generate(listOf(system, Message.user("When was tea first drunk?")), SHORT).await().usage
                assertTrue(usage.reusedTokens in 1..kept, "$usage of $kept")
            }
        }

    @Test
    fun `a stored chat goes on after it is opened again`() =
        test {
            val (id, first) =
                inFolder(folder) { tp ->
                    val chat = tp.conversation()
                    chat.append(Message.system("Answer in one sentence."))
                    val reply = chat.send("Why is the sky blue?", SHORT).await()
                    chat.rename("Sky")
                    chat.id to reply.id
                }
            inFolder(folder) { tp ->
                val chat = tp.conversation(id)
                assertEquals("Sky", chat.info().title)
                chat.send("And at night?", SHORT).await()
                val roles = listOf(Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT)
                assertEquals(roles, chat.messages().map { it.message.role })
                assertEquals(first, chat.messages()[2].reply)
                assertEquals(listOf(id), tp.conversations().map { it.id })
            }
        }

    @Test
    fun `a reply that was taken back leaves a retry and an edit takes its place`() =
        test {
            inFolder(folder) { tp ->
                val chat = tp.conversation()
                val first = chat.send("Name a colour.", SHORT).await()
                val second = chat.regenerate(GenerateOptions(maxTokens = 12, temperature = 1.5f, seed = 3)).await()
                assertEquals(listOf(Feedback.Retry), tp.feedbackOn(first.id).map { it.feedback })
                tp.record(second, Feedback.Prefer(over = first.id))
                chat.edit("Blue.")
                assertEquals(Message.assistant("Blue."), chat.messages().last().message)

                val branch = chat.branch(chat.messages().first().id, "another")
                assertEquals(listOf("Name a colour."), branch.messages().map { it.message.content })
                assertNotEquals(chat.id, branch.id)
                chat.delete()
                assertEquals(listOf(branch.id), tp.conversations().map { it.id })
            }
        }

    @Test
    fun `an event crosses the boundary in far less time than a token takes`() =
        test {
            inFolder(folder) { tp ->
                // Once for the classes that are loaded and compiled by it.
                val (perEvent, perToken) =
                    List(2) {
                        val waiting = tp.inner.generate(Request("Tell me a long story.", MEDIUM).boundary())
                        // The one after it is answered once all of this one wait to be fetched.
                        tp.generate("Hello", SHORT).await()
                        val started = System.nanoTime()
                        val generation = Generation { waiting }
                        val events = generation.events.toList()
                        val perEvent = (System.nanoTime() - started) / 1e3 / events.size
                        val usage = generation.await().usage
                        perEvent to 1e3 * usage.decodeMs / usage.completionTokens
                    }.last()
                println("%.0f microseconds an event, %.0f a token".format(perEvent, perToken))
                assertTrue(perEvent < perToken / 10)
            }
        }

    @Test
    fun `cancellation of a coroutine is not swallowed`() =
        test {
            inFolder(folder) { tp ->
                var seen: Throwable? = null
                val waiting =
                    launch {
                        try {
                            tp.generate("Tell me a long story.", LONG).await()
                        } catch (error: CancellationException) {
                            seen = error
                            throw error
                        }
                    }
                delay(20)
                waiting.cancelAndJoin()
                assertTrue(seen is CancellationException)
                assertTrue(tp.generate("Hello", SHORT).text.first().isNotEmpty())
            }
        }
}
