package dev.thumbprint

import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import java.io.File

/** What tests do in another process: open | hold | leave | personalize FOLDER. */
fun main(arguments: Array<String>) {
    val (what, folder) = arguments
    runBlocking {
        when (what) {
            "open" ->
                try {
                    Thumbprint.open(File(folder)).close()
                    println("free")
                } catch (error: ThumbprintException.FolderInUse) {
                    println("${error.code} ${error.pid}")
                }
            "hold" -> {
                Thumbprint.open(File(folder))
                println("open")
                System.`in`.read()
            }
            // Closes nothing.
            "leave" -> {
                Thumbprint.setLogSink { }
                val tp = Thumbprint.open(File(folder), MODEL, ENGINE)
                tp.generate("Tell me a long story.").text.first()
            }
            "personalize" -> {
                val tp = Thumbprint.open(File(folder), MODEL, EngineOptions(nCtx = 1024))
                tp.personalize(Budget(), BRIEF).updates.collect {
                    println("${it.phase} ${it.step} ${it.total}")
                    System.out.flush()
                }
            }
        }
    }
}
