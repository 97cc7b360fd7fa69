package dev.thumbprint

import dev.thumbprint.manual.manual
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.io.File
import java.nio.file.Files

/** What docs/kotlin.md shows works: scripts/kotlin-snippets makes one function of it. */
class ManualTest {
    @Test
    fun `the manual's snippets run one after the other`() =
        test {
            // Its paths are relative, and this process runs in a folder of its own.
            val model = File("model.gguf").absoluteFile.toPath()
            Files.deleteIfExists(model)
            Files.createSymbolicLink(model, MODEL.absoluteFile.toPath())
            File("data").deleteRecursively()
            // Whoever opens a folder first says how its model is run: here on one thread, as in the other tests.
            Thumbprint.open(File("data"), engine = ENGINE).use { tp ->
                manual()
                assertEquals(1, tp.conversations().size)
                assertTrue(tp.readiness().have.events > 1)
            }
        }
}
