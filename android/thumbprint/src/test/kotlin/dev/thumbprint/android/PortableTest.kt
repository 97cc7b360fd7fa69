package dev.thumbprint.android

import dev.thumbprint.BRIEF
import dev.thumbprint.Budget
import dev.thumbprint.ENGINE
import dev.thumbprint.Feedback
import dev.thumbprint.InferenceMemory
import dev.thumbprint.MODEL
import dev.thumbprint.MemoryEstimate
import dev.thumbprint.Outcome
import dev.thumbprint.Phase
import dev.thumbprint.Thumbprint
import dev.thumbprint.TrainingMemory
import dev.thumbprint.test
import dev.thumbprint.throws
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.launch
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.security.GeneralSecurityException
import javax.crypto.KeyGenerator

private const val MIB = 1L shl 20
private val COOL = DeviceState(Thermal.NONE, 4096 * MIB, lowMemory = false)
private val HOT = COOL.copy(thermal = Thermal.SEVERE)

// Two threads that wait for one another are slow on a machine that has other things to do.
private val BUDGET = Budget(nThreads = 1)

/** What android/ decides without Android, on the JVM and the real model. */
class PortableTest {
    @TempDir
    lateinit var folder: File

    private suspend fun <T> taught(use: suspend (Thumbprint) -> T): T =
        Thumbprint.open(folder, MODEL, ENGINE).use { tp ->
            repeat(12) { n ->
                val long = "One could say very much about the number $n, and much has been said. ".repeat(3)
                tp.recordExternal("What is $n?", if (n % 2 == 0) "It is $n." else long, if (n % 2 == 0) Feedback.Up else Feedback.Down())
            }
            use(tp)
        }

    @Test
    fun `a hot device and one that is short of memory rest`() {
        val limits = Limits(spareBytes = 100 * MIB)
        assertNull(limits.reasonToRest(COOL))
        assertNull(limits.reasonToRest(COOL.copy(thermal = Thermal.MODERATE)))
        assertEquals(RestReason.HOT, limits.reasonToRest(HOT))
        assertEquals(RestReason.HOT, Limits(restAt = Thermal.MODERATE).reasonToRest(COOL.copy(thermal = Thermal.MODERATE)))
        assertEquals(RestReason.LOW_MEMORY, limits.reasonToRest(COOL.copy(availableBytes = 99 * MIB)))
        assertEquals(RestReason.LOW_MEMORY, limits.reasonToRest(COOL.copy(lowMemory = true)))
        assertEquals(Thermal.SHUTDOWN, Thermal.of(99))
        assertEquals(Thermal.SEVERE, Thermal.of(3))
    }

    @Test
    fun `no chunk is longer than a worker may run`() {
        assertEquals(480, Limits().seconds)
        assertEquals(1, Limits(seconds = 1).seconds)
        for (seconds in listOf(-1L, 0L, 481L, Long.MAX_VALUE)) {
            val refused = throws<IllegalArgumentException> { Limits(seconds = seconds) }
            assertTrue("$seconds seconds: from 1 to 480" in refused.message!!, refused.message)
            throws<IllegalArgumentException> { Limits().copy(seconds = seconds) }
        }
        throws<IllegalArgumentException> { Limits(pollSeconds = 0) }
    }

    @Test
    fun `memory is what there is to spare and least after an end for lack of it`() {
        val engine = InferenceMemory(weights = 900 * MIB, cache = 30 * MIB, compute = 20 * MIB)
        val needed = MemoryEstimate(engine, TrainingMemory(fullSpeed = 500 * MIB, least = 200 * MIB - 1))
        val limits = Limits(spareBytes = 50 * MIB)
        assertNull(memoryBudget(needed, 600 * MIB, limits, endedForMemory = false))
        assertEquals(400, memoryBudget(needed, 500 * MIB, limits, endedForMemory = false))
        assertEquals(200, memoryBudget(needed, 250 * MIB, limits, endedForMemory = false))
        assertEquals(200, memoryBudget(needed, 5000 * MIB, limits, endedForMemory = true))
        assertTrue(fits(needed, 300 * MIB, limits))
        assertFalse(fits(needed, 299 * MIB - 2, limits))
        // A model that cannot be trained says so itself.
        assertTrue(fits(needed.copy(training = null), 300 * MIB, limits))
        assertNull(memoryBudget(needed.copy(training = null), 300 * MIB, limits, endedForMemory = true))
    }

    @Test
    fun `options outlive the process`() {
        val plain = BackgroundOptions(File("/data/app"), File("/data/model.gguf"))
        assertEquals(plain, BackgroundOptions.of(plain.toMap()))
        val all =
            plain.copy(
                nCtx = 1024,
                memoryMib = 300,
                requiresDeviceIdle = true,
                keyAlias = "key",
                limits = Limits(60, Thermal.MODERATE, 5, 1),
                notice = Notice("channel", "Learning", 7),
            )
        assertEquals(all, BackgroundOptions.of(all.toMap()))
        assertTrue("dataDir" in throws<IllegalArgumentException> { BackgroundOptions.of(emptyMap()) }.message!!)
    }

    @Test
    fun `a sealed key opens under its own key alone and unchanged`() {
        val (ours, other) = List(2) { KeyGenerator.getInstance("AES").apply { init(256) }.generateKey() }
        val secret = ByteArray(32) { it.toByte() }
        val sealed = seal(secret, ours)
        assertEquals(12 + 32 + 16, sealed.size)
        assertFalse(sealed.contentEquals(seal(secret, ours)))
        assertArrayEquals(secret, unseal(sealed, ours))
        throws<GeneralSecurityException> { unseal(sealed, other) }
        throws<GeneralSecurityException> { unseal(sealed.apply { this[20] = (this[20] + 1).toByte() }, ours) }
        throws<GeneralSecurityException> { unseal(ByteArray(12), ours) }
    }

    @Test
    fun `a device that is hot from the start begins nothing`() =
        test {
            taught { tp ->
                assertEquals(ChunkResult.Rests(RestReason.HOT), runChunk(tp, BUDGET, BRIEF, Limits(), { HOT }))
                assertNull(tp.currentJob())
            }
        }

    @Test
    fun `a chunk rests when the device gets hot or its time is up and the next one goes on to the end`() =
        test {
            taught { tp ->
                var state = COOL
                val limits = Limits(pollSeconds = 1)
                val hot = runChunk(tp, BUDGET, BRIEF, limits, { state }) { state = HOT }
                assertEquals(ChunkResult.Rests(RestReason.HOT), hot)
                assertFalse(tp.currentJob()!!.isFinished)

                val short = runChunk(tp, BUDGET, BRIEF, limits.copy(seconds = 2, pollSeconds = 60), { COOL })
                assertEquals(ChunkResult.Rests(RestReason.OUT_OF_TIME), short)

                val phases = mutableSetOf<Phase>()
                val end = runChunk(tp, BUDGET, BRIEF, limits, { COOL }) { phases += it.phase }
                val outcome = (end as ChunkResult.Finished).outcome
                assertTrue(outcome is Outcome.Trial || outcome is Outcome.Rejected, "$outcome")
                assertTrue(Phase.TRAIN in phases)
            }
        }

    @Test
    fun `a worker that is stopped leaves the job resting`() =
        test {
            taught { tp ->
                val begun = CompletableDeferred<Unit>()
                val worker = launch { runChunk(tp, BUDGET, BRIEF, Limits(), { COOL }) { begun.complete(Unit) } }
                begun.await()
                worker.cancelAndJoin()
                val job = checkNotNull(tp.currentJob())
                assertFalse(job.isFinished)
                assertEquals(Outcome.Paused, job.await())
                job.cancel()
            }
        }

    @Test
    fun `too little to learn from is the end of a chunk`() =
        test {
            Thumbprint.open(folder, MODEL, ENGINE).use { tp ->
                val end = runChunk(tp, BUDGET, BRIEF, Limits(), { COOL }) as ChunkResult.Finished
                assertTrue(end.outcome is Outcome.NothingToLearn)
            }
        }
}
