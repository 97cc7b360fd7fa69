package dev.thumbprint

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.io.File
import java.lang.reflect.Modifier
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** The public types say what the boundary's say, and a person can read them. */
class TypesTest {
    private val sources = File(System.getProperty("thumbprint.kotlin"), "src/main/kotlin/dev/thumbprint")

    private val uniffis = listOf("Uniffi", "uniffi", "FfiConverter", "RustBuffer", "ForeignBytes", "Cleaner", "Cleanable", "HandleMap")

    /** Classes of the boundary that stand in a package of their own, without what uniffi needs for itself. */
    private val boundary =
        File(dev.thumbprint.ffi.Reply::class.java.protectionDomain.codeSource.location.toURI())
            .resolve("dev/thumbprint/ffi")
            .listFiles()!!
            .map { it.nameWithoutExtension }
            .filterNot { name -> uniffis.any { it in name } || name.endsWith("Kt") || name.endsWith("DefaultImpls") }
            .map { Class.forName("dev.thumbprint.ffi.$it") }
            .filter { Modifier.isPublic(it.modifiers) }

    // What Kotlin has otherwise: parameters, lambdas, interfaces beside the classes, uniffi's own.
    private val otherwise =
        setOf("Options", "LoadListener", "JobListener", "EvaluationListener", "Canceller", "Batch", "InternalException", "Disposable", "NoHandle", "Companion", "ErrorHandler")

    private fun publicly(boundary: Class<*>): Class<*>? =
        runCatching { Class.forName(boundary.name.replace(".ffi.Target", ".ForgetTarget").replace(".ffi.", ".")) }.getOrNull()

    /** Names of a data class's properties, in their order. */
    private fun properties(cls: Class<*>) = cls.declaredFields.filterNot { Modifier.isStatic(it.modifiers) || it.isSynthetic }.map { it.name }

    private fun isRecord(cls: Class<*>) = cls.declaredMethods.any { it.name == "component1" || it.name.startsWith("component1-") }

    @Test
    fun `nothing of the boundary is left out`() {
        val names = boundary.filterNot { it.name.endsWith("Interface") || it.name.endsWith("Impl") || it.isSynthetic }
        val missing = names.filter { publicly(it) == null && it.simpleName !in otherwise }
        assertEquals(emptyList<String>(), missing.map { it.name })
        assertTrue(names.size > 60, "${names.size}")
    }

    @Test
    fun `a record has the boundary's fields`() {
        val records = boundary.filter { isRecord(it) && it.simpleName !in otherwise && !Throwable::class.java.isAssignableFrom(it) }
        for (record in records) assertEquals(properties(record), properties(publicly(record)!!), record.name)
        assertTrue(records.size > 40, "${records.size}")
    }

    @Test
    fun `an enum has the boundary's members`() {
        val enums = boundary.filter { it.isEnum }
        for (enum in enums) {
            assertEquals(enum.enumConstants.map { "$it" }, publicly(enum)!!.enumConstants.map { "$it" }, enum.name)
        }
        assertTrue(enums.size > 10, "${enums.size}")
    }

    @Test
    fun `an object has the boundary's methods`() {
        // Names that Kotlin has for it, and what stands on the companion.
        val kotlin =
            mapOf(
                "shutdown" to "close",
                "isShutDown" to "isClosed",
                "waitForReply" to "await",
                "waitForOutcome" to "await",
                "next" to "getEvents",
                "nextProgress" to "getUpdates",
                "progress" to "getProgress",
                "id" to "getId",
                "startBatch" to "generateBatch",
            )
        val objects = listOf("Thumbprint", "Conversation", "Generation", "PersonalizeJob")
        for (name in objects) {
            val here = Class.forName("dev.thumbprint.$name").methods.map { it.name.substringBefore('-') }.toSet()
            val there = Class.forName("dev.thumbprint.ffi.${name}Interface").methods.map { it.name.substringBefore('-').substringBefore('$') }
            val missing = there.filterNot { (kotlin[it] ?: it) in here || it in here }
            assertEquals(emptyList<String>(), missing, name)
        }
    }

    @Test
    fun `everything public is documented`() {
        val undocumented =
            sources.listFiles()!!.filter { it.isFile }.flatMap { file ->
                val lines = file.readLines()
                lines.indices
                    .filter { Regex("""^ *(public |override |val |[A-Z][A-Z_0-9]*,$)""").containsMatchIn(lines[it]) }
                    .filterNot { line ->
                        val before = lines.subList(0, line).last { !it.trim().startsWith("@") }.trim()
                        before.endsWith("*/") || "override fun toString" in lines[line] || "override fun compareTo" in lines[line]
                    }
                    // Locals, and members of an object that is no part of the interface.
                    .filterNot { lines[it].startsWith("        ") && !lines[it].trim().startsWith("public ") }
                    .map { "${file.name}:${it + 1}: ${lines[it].trim()}" }
            }
        assertEquals(emptyList<String>(), undocumented)
    }

    @Test
    fun `whatever can be seen says so`() {
        // As in explicit API mode, which the generated code would not pass.
        val implicit =
            sources.listFiles()!!.filter { it.isFile }.flatMap { file ->
                file.readLines().filter {
                    Regex("""^( {4})?(suspend |data |sealed |enum |value |abstract |open )*(class|interface|object|fun|companion) """)
                        .containsMatchIn(it)
                }.map { "${file.name}: $it" }
            }
        assertEquals(emptyList<String>(), implicit)
    }

    @Test
    fun `what the library logs goes to the sink`() =
        test {
            val records = LinkedBlockingQueue<LogRecord>()
            Thumbprint.setLogSink { records += it }
            try {
                val folder = kotlin.io.path.createTempDirectory().toFile()
                File(folder, "thumbprint.db").writeText("no database")
                Thumbprint.open(folder).use { tp ->
                    assertTrue(tp.openReport().movedAside!!.exists())
                }
                folder.deleteRecursively()
                val record = checkNotNull(records.poll(30, TimeUnit.SECONDS))
                assertEquals(LogLevel.WARN to "a damaged database was moved aside", record.level to record.text)
                assertTrue(record.target.startsWith("thumbprint"))
            } finally {
                Thumbprint.setLogSink(null)
            }
        }
}
