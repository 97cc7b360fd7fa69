package dev.thumbprint

import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.first
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeAll
import org.junit.jupiter.api.MethodOrderer
import org.junit.jupiter.api.Order
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestInstance
import org.junit.jupiter.api.TestMethodOrder
import org.junit.jupiter.api.io.TempDir
import java.io.File
import kotlin.math.abs
import kotlin.math.ln
import kotlin.random.Random
import kotlin.time.Duration.Companion.minutes

/** The loop on the real model: learn, pause, be killed, go on; serve, vote, roll back, forget. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@TestMethodOrder(MethodOrderer.OrderAnnotation::class)
class LearningTest {
    private lateinit var folder: File
    private lateinit var tp: Thumbprint
    private lateinit var cancelled: Outcome
    private val progressOfKilled = mutableListOf<String>()
    private lateinit var paused: Outcome
    private var finishedWhilePaused = true
    private lateinit var replyWhilePaused: Reply
    private val progress = mutableListOf<Progress>()
    private lateinit var outcome: Outcome

    /** One data folder whose job is cancelled, killed, paused, talked over and finished. */
    @BeforeAll
    fun learn(
        @TempDir temporary: File,
    ) = test(limit = 40.minutes) {
        folder = File(temporary, "data")
        inFolder(folder) { tp ->
            teach(tp)
            val job = tp.personalize(Budget(), BRIEF)
            job.updates.collect { if (it.phase == Phase.FOLD) job.cancel() }
            cancelled = job.await()
        }

        // Killed in the second of two trainings on halves, in a process of its own.
        val child = otherProcess("personalize", folder.path)
        for (line in child.inputStream.bufferedReader().lineSequence()) {
            progressOfKilled += line
            val (phase, step, total) = line.split(' ')
            if (phase == "FOLD" && 2 * step.toLong() > total.toLong()) {
                child.destroyForcibly().waitFor()
                break
            }
        }

        tp = Thumbprint.open(folder, MODEL, ENGINE)
        val job = tp.personalize(Budget(), BRIEF)
        job.updates.collect {
            progress += it
            if (it.phase == Phase.TRAIN && it.step >= 2) job.pause()
        }
        paused = job.await()
        finishedWhilePaused = job.isFinished
        replyWhilePaused = tp.generate("Hello", SHORT).await()
        job.resume()
        job.updates.collect { progress += it }
        outcome = job.await()
    }

    @AfterAll
    fun close() = tp.close()

    private val adapter: AdapterId get() = (outcome as? Outcome.Trial ?: error("$outcome")).adapter

    // Before adapters come in from files.
    @Test
    @Order(0)
    fun `a cancelled job says so and leaves nothing`() =
        test {
            assertEquals(Outcome.Cancelled, cancelled)
            assertEquals(1, tp.adapters().size)
        }

    @Test
    fun `a killed job goes on where it was`() {
        assertTrue(progressOfKilled.last().startsWith("FOLD"), "$progressOfKilled")
        // The first half was not trained on again.
        val folds = progress.filter { it.phase == Phase.FOLD }
        assertTrue(folds.all { 2 * it.step > it.total }, "$folds")
    }

    @Test
    fun `progress goes through every phase with numbers`() {
        val phases = progress.map { it.phase }.distinct()
        assertEquals(listOf(Phase.FOLD, Phase.TRAIN, Phase.GATE), phases.filter { it in Phase.FOLD..Phase.GATE })
        val losses = progress.filter { it.phase == Phase.TRAIN }.mapNotNull { it.loss }
        // Training ends early once the adapter has moved far enough.
        assertTrue(losses.size > 2)
        // A fresh adapter answers as the base does.
        assertTrue(abs(losses.first() - ln(2.0)) < 1e-6)
        assertTrue(progress.all { it.step in 0..it.total })
    }

    @Test
    fun `a paused job rests, lets talk and goes on`() {
        assertEquals(Outcome.Paused, paused)
        assertFalse(finishedWhilePaused)
        assertTrue(replyWhilePaused.text.isNotEmpty())
        assertTrue(progress.last().phase > Phase.TRAIN)
    }

    @Test
    @Order(0)
    fun `the outcome carries the gate's report`() =
        test {
            val report = (outcome as? Outcome.Trial)?.report ?: (outcome as Outcome.Rejected).report
            assertEquals(THINGS.size.toLong(), report.thumbs)
            assertTrue(report.explanation.isNotEmpty() && report.heldOut.sentence.isNotEmpty())
            val guards = report.scales.flatMap { it.guards }.map { it.name }
            assertTrue(guards.containsAll(listOf("neutral_perplexity", "kl_neutral")))
            val decision = tp.adapters().single().decisions.first()
            assertTrue(decision.kind.startsWith("offline: "))
            assertEquals(report.explanation, decision.explanation)
        }

    @Test
    @Order(1)
    fun `the new adapter is in use at once and the base can still be asked`() =
        test {
            assertTrue(tp.adapter(adapter).active)
            val withAdapter = tp.generate("What is paper?", SHORT).await()
            val without = tp.generate("What is paper?", SHORT, by = By.Base).await()
            val whateverItsState = tp.generate("What is paper?", SHORT, by = By.Adapter(adapter)).await()
            assertEquals(listOf(adapter, null, adapter), listOf(withAdapter, without, whateverItsState).map { it.adapter })
        }

    @Test
    @Order(2)
    fun `a trial is not disturbed`() =
        test {
            assertEquals(Outcome.TrialRunning(adapter), tp.personalize().await())
        }

    @Test
    @Order(3)
    fun `an adapter leaves as a stock file and comes in again`() =
        test {
            val file = File(folder.parentFile, "adapter.gguf")
            tp.export(adapter, file)
            assertEquals("GGUF", file.inputStream().use { String(it.readNBytes(4)) })
            val peft = File(folder.parentFile, "peft")
            tp.export(adapter, peft, AdapterFormat.PEFT)
            assertTrue(File(peft, "adapter_model.safetensors").exists())
            // One that is here already is found again.
            assertEquals(adapter, tp.importAdapter(peft))
            assertEquals(adapter, tp.importAdapter(file))
        }

    @Test
    @Order(3)
    fun `adapters are added up and merged`() =
        test {
            val none = tp.combine(listOf(AdapterPart(adapter, 1f), AdapterPart(adapter, -1f)), rank = 4)
            assertFalse(tp.adapter(none).active)
            val model = File(folder.parentFile, "merged.gguf")
            throws<ThumbprintException.InvalidInput> { tp.merge(adapter, model, tensorType = "Q9_9") }
            assertEquals(Merged(210, emptyList()), tp.merge(none, model))
            assertEquals("GGUF", model.inputStream().use { String(it.readNBytes(4)) })
        }

    @Test
    @Order(3)
    fun `an adapter scores a reply token by token`() =
        test {
            val reply = tp.generate("What is wool?", SHORT).await()
            val score = tp.score(reply.id)
            assertTrue(score.reward != 0.0)
            assertEquals(score.reward, score.perToken.sum(), 1e-9)
            assertEquals(score.reward, score.beta!! * (score.logp!! - score.referenceLogp!!), 1e-9)
            assertEquals(reply.usage.completionTokens, score.tokens.size)
            assertEquals(score, tp.score(reply.id, Judge.Adapter(adapter)))
            // A reply that was cut off is no whole text.
            assertEquals(score.tokens, tp.scoreText("What is wool?", reply.text).tokens.take(score.tokens.size))
        }

    @Test
    @Order(3)
    fun `a blind side by side tells who wrote what after the vote`() =
        test {
            val due = tp.contestDue(1.0)!!
            assertEquals(adapter to null, due.a to due.b)
            assertNull(tp.contestDue(0.0))
            val chat = tp.conversation()
            val match = chat.sideBySide("What is salt?", due.copy(options = SHORT))
            assertEquals("What is salt?", match.prompt.last().content)
            assertNull(match.choice)
            assertEquals(match.left.reply, chat.messages().last().reply)
            assertEquals(listOf(match), tp.openMatches())
            val voted = tp.vote(match.id, Choice.RIGHT)
            assertEquals(setOf(adapter, null), setOf(voted.left, voted.right))
            assertEquals(1, voted.verdict!!.wins + voted.verdict!!.losses)
            assertEquals(match.right.reply, chat.messages().last().reply)
            assertEquals(Choice.RIGHT, tp.sideBySideOf(match.id).choice)
            assertEquals(emptyList<Match>(), tp.openMatches())
            val again = throws<ThumbprintException.InvalidState> { tp.vote(match.id, Choice.LEFT) }
            assertEquals("already_voted", again.code)
            val pair = tp.arenaResults().pairs.single()
            assertEquals(adapter to null, pair.a to pair.b)
            assertEquals(if (voted.right == adapter) 1L else 0L, pair.wins)
            assertTrue(pair.winRate in pair.interval.low..pair.interval.high)
            throws<ThumbprintException.InvalidInput> { tp.sideBySide("What is salt?", Contest(null, null)) }
            // The same seed puts the same one on the left.
            val sides =
                (1..2).map {
                    val contest = Contest(adapter, null, SHORT, seed = 5)
                    tp.vote(tp.sideBySide("What is tea?", contest).id, Choice.TIE).left
                }
            assertEquals(1, sides.toSet().size)
        }

    @Test
    @Order(4)
    fun `blind votes promote and roll back`() =
        test {
            val mine = tp.generate("What is glass?", SHORT).await()
            val base = tp.generate("What is glass?", SHORT, by = By.Base).await()

            suspend fun vote(outcome: VoteOutcome): Decision {
                val verdict = tp.recordVote(Vote(adapter, outcome, Random.nextBoolean(), mine.id, base.id))
                assertTrue(verdict.explanation.isNotEmpty())
                return verdict.decision
            }
            assertEquals(Decision.STAY, vote(VoteOutcome.TIE))
            assertTrue((0 until 60).any { vote(VoteOutcome.WIN) == Decision.PROMOTE })
            assertEquals(AdapterState.PROMOTED, tp.adapter(adapter).state)
            assertTrue((0 until 60).any { vote(VoteOutcome.LOSS) == Decision.ROLL_BACK })
            val details = tp.adapter(adapter)
            assertEquals(AdapterState.ROLLED_BACK to false, details.state to details.active)
            assertNull(tp.generate("What is glass?", SHORT).await().adapter)
        }

    @Test
    @Order(5)
    fun `an adapter can be taken up, put down and taken back by hand`() =
        test {
            tp.activate(adapter)
            assertEquals(adapter, tp.generate("What is salt?", SHORT).await().adapter)
            tp.deactivate()
            assertNull(tp.generate("What is salt?", SHORT).await().adapter)
            tp.activate(adapter)
            assertNull(tp.rollback())
            assertEquals(AdapterState.ROLLED_BACK, tp.adapter(adapter).state)
            throws<ThumbprintException.InvalidState> { tp.rollback() }
        }

    @Test
    @Order(6)
    fun `a damaged adapter is told and the base answers`() =
        test {
            tp.activate(adapter)
            val file = File(folder, tp.adapter(adapter).file)
            val whole = file.readBytes()
            file.writeBytes(whole.copyOf(whole.size - 1))
            tp.unload()
            assertEquals("adapter_changed", throws<ThumbprintException.Adapter> { tp.generate("Hello", SHORT).await() }.code)
            assertNull(tp.generate("Hello", SHORT).await().adapter)
            file.writeBytes(whole)
            assertNull(tp.rollback())
        }

    @Test
    fun `an impossible budget is refused with both numbers`(
        @TempDir other: File,
    ) = test {
        inFolder(other) { tp ->
            teach(tp)
            val error = throws<ThumbprintException.OverBudget> { tp.personalize(Budget(memoryMib = 1), BRIEF).await() }
            assertTrue(error.budgetMib == 1L && error.neededMib > 1)
            assertNull(tp.currentJob())
        }
    }

    @Test
    fun `a recipe changes what is learned and one that makes no sense is refused`(
        @TempDir other: File,
    ) = test {
        inFolder(other) { tp ->
            teach(tp)
            val senseless =
                listOf(
                    Recipe(settingsJson = """{"train": {"pair": {"betta": 1}}}"""),
                    Recipe(settingsJson = """{"learn": "thumbs"}"""),
                    Recipe(settingsJson = "no JSON"),
                    Recipe(choices = GuardFile(File(other, "none.jsonl"), 2.0)),
                )
            for (recipe in senseless) {
                val error = throws<ThumbprintException.InvalidInput> { tp.personalize(Budget(), recipe) }
                assertEquals("recipe", error.code)
            }
            val recipe = Recipe(settingsJson = """{"train": {"max_steps": 7}, "folds": 0, "anchors": false, "west_of_n": null}""")
            val job = tp.personalize(Budget(), recipe)
            val phases = mutableSetOf<Phase>()
            job.updates.collect {
                phases += it.phase
                if (it.phase == Phase.TRAIN && it.step > 0) {
                    assertEquals(7, it.total)
                    job.cancel()
                }
            }
            assertEquals(Outcome.Cancelled, job.await())
            // The product's way trains on halves first.
            assertTrue(Phase.TRAIN in phases && Phase.FOLD !in phases, "$phases")
        }
    }

    @Test
    fun `a job out of time rests and is found again`(
        @TempDir other: File,
    ) = test {
        inFolder(other) { tp ->
            teach(tp)
            assertEquals(Outcome.Paused, tp.personalize(Budget(seconds = 0)).await())
            val job = tp.currentJob()!!
            assertFalse(job.isFinished)
            job.cancel()
            assertTrue(job.isFinished)
            assertEquals(Outcome.Cancelled, job.await())
        }
    }

    @Test
    fun `a collector of progress that leaves or throws leaves the job alone`(
        @TempDir other: File,
    ) = test {
        inFolder(other) { tp ->
            teach(tp)
            val job = tp.personalize(Budget(), BRIEF)
            job.updates.first()
            throws<ArithmeticException> { job.updates.collect { throw ArithmeticException() } }
            assertFalse(job.isFinished)
            // Closing pauses it.
        }
    }

    @Test
    @Order(Int.MAX_VALUE)
    fun `forgetting takes the adapter that learned from it`() =
        test {
            // The last test here: it undoes the rest.
            // With what was taken in from files and made of others.
            val forgotten = tp.forget(ForgetTarget.Everything).adapters
            assertEquals(tp.adapters().map { it.id }.toSet(), forgotten.toSet())
            assertTrue(adapter in forgotten && forgotten.size > 1)
            assertEquals(AdapterState.FORGOTTEN, tp.adapter(adapter).state)
            throws<ThumbprintException.InvalidState> { tp.activate(adapter) }
            assertNull(tp.generate("Hello", SHORT).await().adapter)
        }
}
