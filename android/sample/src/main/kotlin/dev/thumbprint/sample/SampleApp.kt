package dev.thumbprint.sample

import android.app.Application
import dev.thumbprint.Thumbprint
import dev.thumbprint.android.AndroidLog
import dev.thumbprint.android.BackgroundOptions
import dev.thumbprint.android.KeystoreKey
import dev.thumbprint.android.Notice
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import java.io.File

/** Holds the one data folder of the app, for its screens; workers in the same process get the same instance. */
class SampleApp : Application() {
    private val opening = Mutex()
    private var opened: Thumbprint? = null

    val model: File get() = File(filesDir, "model.gguf")

    val background: BackgroundOptions
        get() =
            BackgroundOptions(
                dataDir = File(filesDir, "thumbprint"),
                model = model,
                keyAlias = KEY,
                notice = Notice("learning", getString(R.string.learning), R.drawable.thumb),
            )

    override fun onCreate() {
        super.onCreate()
        AndroidLog.install()
    }

    suspend fun thumbprint(): Thumbprint =
        opening.withLock {
            opened ?: Thumbprint
                .open(background.dataDir, model, key = KeystoreKey(this, KEY).get())
                .also { opened = it }
        }

    private companion object {
        const val KEY = "thumbprint"
    }
}
