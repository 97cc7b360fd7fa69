package dev.thumbprint

import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread

/** One folder, several handles, one process; closing in any order; suspending. */
class ClosingTest {
    @TempDir
    lateinit var folder: File

    @Test
    fun `after closing every call says so`() =
        test {
            val tp = Thumbprint.open(folder, MODEL, ENGINE)
            val chat = tp.conversation()
            val job = tp.personalize()
            job.await()
            val generation = tp.generate("Tell me a long story.", LONG)
            val begun = CompletableDeferred<Unit>()
            val waiting = async { runCatching { generation.events.collect { begun.complete(Unit) } } }
            begun.await()
            tp.close()
            tp.close()
            assertTrue(tp.isClosed)
            val calls =
                mapOf<String, suspend () -> Any?>(
                    "generate" to { tp.generate("Hello").await() },
                    "generateBatch" to { tp.generateBatch(listOf(Request("Hello"))) },
                    "record" to { tp.record(ReplyId(1), Feedback.Up) },
                    "readiness" to { tp.readiness() },
                    "adapters" to { tp.adapters() },
                    "suspend" to { tp.suspend() },
                    "load" to { tp.load(MODEL) },
                    "conversation" to { tp.conversation() },
                    "messages" to { chat.messages() },
                    "send" to { chat.send("Hello").await() },
                    "await" to { generation.await() },
                    "waiting" to { waiting.await().getOrThrow() },
                    "resume" to { job.resume() },
                    "cancel" to { job.cancel() },
                )
            for ((name, call) in calls) {
                val error = runCatching { call() }.exceptionOrNull()
                assertEquals("closed", (error as? ThumbprintException.Closed)?.code, "$name: $error")
            }
            // What has nothing to tell any more does nothing.
            generation.cancel()
            job.pause()
        }

    @Test
    fun `closing ends a generation that a collector waits for`() =
        test {
            val tp = Thumbprint.open(folder, MODEL, ENGINE)
            val generation = tp.generate("Tell me a long story.", LONG)
            val begun = CompletableDeferred<Unit>()
            val following = async { runCatching { generation.events.collect { begun.complete(Unit) } } }
            begun.await()
            generation.cancel()
            withContext(Dispatchers.IO) { tp.close() }
            // It was cancelled and closed at once: it had its end, or was told that there is none.
            val error = following.await().exceptionOrNull()
            assertTrue(error == null || error is ThumbprintException.Closed, "$error")
            assertEquals(listOf("free"), elsewhere(folder))
        }

    @Test
    fun `closing in the middle of loading gives it up`() =
        test {
            val tp = Thumbprint.open(folder)
            throws<ThumbprintException.Closed> { tp.load(MODEL) { tp.close() } }
            assertEquals(listOf("free"), elsewhere(folder))
        }

    @Test
    fun `closing from many threads at once is fine`() =
        test {
            val tp = Thumbprint.open(folder, MODEL, ENGINE)
            val generation = tp.generate("Hello", SHORT)
            launch { runCatching { generation.await() } }
            List(8) { thread { tp.close() } }.forEach(Thread::join)
            assertTrue(tp.isClosed)
        }

    @Test
    fun `the folder opened twice is one instance until the last is closed`() =
        test {
            val app = Thumbprint.open(folder, MODEL, ENGINE)
            val worker = Thumbprint.open(folder)
            assertEquals(listOf(false, true), listOf(app, worker).map { it.openReport().alreadyOpen })
            worker.recordExternal("Hello", "Hi.", Feedback.Up)
            assertEquals(1, app.readiness().have.events)
            // The worker has the model that the app named.
            assertTrue(worker.generate("Hello", SHORT).await().text.isNotEmpty())
            worker.close()
            assertTrue(app.generate("Hello", SHORT).await().text.isNotEmpty())
            val (code, pid) = elsewhere(folder)
            assertEquals("folder_in_use" to ProcessHandle.current().pid(), code to pid.toLong())
            app.close()
            assertEquals(listOf("free"), elsewhere(folder))
        }

    @Test
    fun `another process has the folder`() =
        test {
            val other = otherProcess("hold", folder.path)
            assertEquals("open", other.inputStream.bufferedReader().readLine())
            val error = throws<ThumbprintException.FolderInUse> { Thumbprint.open(folder) }
            assertEquals(other.pid(), error.pid)
            assertTrue("${other.pid()}" in error.reason)
            other.outputStream.close()
            assertTrue(other.waitFor(1, TimeUnit.MINUTES))
            Thumbprint.open(folder).close()
        }

    @Test
    fun `suspending releases the folder and the next call takes it again`() =
        test {
            inFolder(folder) { tp ->
                val reply = tp.generate("Hello", SHORT).await()
                tp.suspend()
                assertEquals(listOf("free"), elsewhere(folder))
                tp.record(reply, Feedback.Up)
                assertEquals("folder_in_use", elsewhere(folder).first())
                assertEquals(reply.text, tp.generate("Hello", SHORT).await().text)
            }
        }

    @Test
    fun `a program that closes nothing ends`() =
        test {
            val other = otherProcess("leave", folder.path)
            assertTrue(other.waitFor(2, TimeUnit.MINUTES) && other.exitValue() == 0)
            assertEquals(listOf("free"), elsewhere(folder))
        }
}
