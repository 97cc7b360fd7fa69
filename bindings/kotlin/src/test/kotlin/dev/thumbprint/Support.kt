package dev.thumbprint

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.junit.jupiter.api.Assertions.fail
import java.io.File
import java.util.concurrent.TimeUnit
import kotlin.time.Duration
import kotlin.time.Duration.Companion.minutes

/** SmolLM2-135M-Instruct, Q4_1. */
val MODEL = File(checkNotNull(System.getenv("THUMBPRINT_TEST_MODEL")) { "THUMBPRINT_TEST_MODEL names the demo model" })

// One thread: two that wait for one another are slow on a machine that has other things to do.
val ENGINE = EngineOptions(nCtx = 1024, nThreads = 1)
val SHORT = GenerateOptions(maxTokens = 12, temperature = 0f, seed = 1)
val MEDIUM = GenerateOptions(maxTokens = 96, temperature = 0f, seed = 1)
val LONG = GenerateOptions(maxTokens = 400, temperature = 0f, seed = 1)

// Without the base's own replies beside the feedback, which take minutes to be written.
val BRIEF = Recipe(settingsJson = """{"west_of_n": null, "folds_from": 0}""")

val THINGS =
    listOf("tea", "rain", "chess", "bread", "the moon", "running", "cats", "paper", "glass", "salt", "wool", "trains")
const val LONG_ANSWER =
    "Well, that is a very interesting question, and there are many things that one could say about it. First of all, it is " +
        "important to note that there are many different opinions. Secondly, it is important to note that opinions change."

/** Twelve thumbs of somebody who likes short answers. */
suspend fun teach(tp: Thumbprint) {
    THINGS.forEachIndexed { n, thing ->
        val short = n % 2 == 0
        val answer = if (short) "It is $thing, of course." else LONG_ANSWER
        tp.recordExternal("What is $thing?", answer, if (short) Feedback.Up else Feedback.Down())
    }
}

fun test(limit: Duration = 20.minutes, block: suspend CoroutineScope.() -> Unit): Unit =
    runBlocking { withTimeout(limit) { block() } }

/** A data folder with the model. */
suspend fun <T> inFolder(folder: File, use: suspend (Thumbprint) -> T): T =
    Thumbprint.open(folder, MODEL, ENGINE).use { use(it) }

inline fun <reified E : Throwable> throws(call: () -> Any?): E {
    try {
        call()
    } catch (error: Throwable) {
        if (error is E) return error
        throw error
    }
    fail<Unit>("${E::class.simpleName} was to be thrown")
    error("unreachable")
}

/** Another process that does one of the things in OtherProcess.kt. */
fun otherProcess(vararg arguments: String): Process =
    ProcessBuilder(
        "${System.getProperty("java.home")}/bin/java",
        "-cp",
        System.getProperty("surefire.test.class.path") ?: System.getProperty("java.class.path"),
        "dev.thumbprint.OtherProcessKt",
        *arguments,
    ).redirectError(ProcessBuilder.Redirect.INHERIT).start()

/** What another process says about a folder: "free", or a code and the process that has it. */
fun elsewhere(folder: File): List<String> {
    val process = otherProcess("open", folder.path)
    val words = process.inputStream.bufferedReader().readText().split(' ', '\n').filter(String::isNotEmpty)
    check(process.waitFor(2, TimeUnit.MINUTES) && process.exitValue() == 0) { "the other process failed: $words" }
    return words
}
