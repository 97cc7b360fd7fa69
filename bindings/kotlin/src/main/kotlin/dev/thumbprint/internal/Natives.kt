package dev.thumbprint.internal

import com.sun.jna.Platform
import dev.thumbprint.ffi.uniffiEnsureInitialized

/** The native library: in the jar by operating system and processor, or among an app's own on Android. */
internal object Natives {
    /** Loads it, or says what is missing. */
    fun require() {
        try {
            uniffiEnsureInitialized()
        } catch (error: LinkageError) {
            val reason =
                "Thumbprint's native library cannot be loaded for ${Platform.RESOURCE_PREFIX}: " +
                    "add it to the jar under that name (or to jniLibs), built for this processor"
            throw UnsatisfiedLinkError("$reason (${error.message})").initCause(error)
        }
    }
}
