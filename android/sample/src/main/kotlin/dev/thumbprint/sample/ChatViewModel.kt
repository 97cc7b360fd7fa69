package dev.thumbprint.sample

import android.app.Application
import android.net.Uri
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateListOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import dev.thumbprint.AdapterDetails
import dev.thumbprint.AdapterId
import dev.thumbprint.Conversation
import dev.thumbprint.Event
import dev.thumbprint.Feedback
import dev.thumbprint.GenerateOptions
import dev.thumbprint.Readiness
import dev.thumbprint.ReplyId
import dev.thumbprint.Role
import dev.thumbprint.Thumbprint
import dev.thumbprint.ThumbprintException
import dev.thumbprint.android.BackgroundPersonalization
import dev.thumbprint.android.KeyLostException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import java.io.File
import java.io.IOException

/** One turn as it is shown. */
data class Turn(
    val role: Role,
    val text: String,
    val reply: ReplyId? = null,
    val thumb: Feedback? = null,
)

/** What the screens show, and what can be done there. */
class ChatViewModel(
    application: Application,
) : AndroidViewModel(application) {
    private val app get() = getApplication<SampleApp>()
    private var chat: Conversation? = null
    private var talking: Job? = null

    val turns = mutableStateListOf<Turn>()
    val adapters = mutableStateListOf<AdapterDetails>()
    var readiness by mutableStateOf<Readiness?>(null)
        private set
    var hasModel by mutableStateOf(app.model.exists())
        private set
    var isTalking by mutableStateOf(false)
        private set
    var error by mutableStateOf<String?>(null)
        private set

    init {
        if (hasModel) start()
    }

    /** Takes a copy of a file that the person has picked; it gets its name once it is whole. */
    fun chooseModel(uri: Uri) =
        act {
            withContext(Dispatchers.IO) {
                val part = File(app.model.path + ".part")
                app.contentResolver.openInputStream(uri)?.use { from -> part.outputStream().use { from.copyTo(it) } }
                if (!part.renameTo(app.model)) throw IOException("the model could not be kept")
            }
            hasModel = true
            start()
        }

    private fun start() =
        act {
            val tp = app.thumbprint()
            BackgroundPersonalization.schedule(app, app.background)
            val latest = tp.conversations().firstOrNull()?.id
            val chat = tp.conversation(latest).also { chat = it }
            for (stored in chat.messages()) {
                val thumb = stored.reply?.let { tp.feedbackOn(it).lastOrNull()?.feedback }
                turns += Turn(stored.message.role, stored.message.content, stored.reply, thumb)
            }
            refresh(tp)
        }

    fun send(text: String) {
        val chat = chat ?: return
        talking =
            act {
                isTalking = true
                turns += Turn(Role.USER, text)
                turns += Turn(Role.ASSISTANT, "")
                val generation = chat.send(text, GenerateOptions(maxTokens = 512))
                try {
                    generation.events.collect { event ->
                        val last = turns.last()
                        turns[turns.lastIndex] =
                            when (event) {
                                is Event.Token -> last.copy(text = last.text + event.text)
                                is Event.Done -> last.copy(text = event.reply.text, reply = event.reply.id)
                            }
                    }
                } finally {
                    isTalking = false
                }
            }
    }

    /** What was said so far is kept in the conversation. */
    fun stop() {
        talking?.cancel()
    }

    fun judge(turn: Turn, thumb: Feedback) =
        act {
            val tp = app.thumbprint()
            tp.record(turn.reply ?: return@act, thumb)
            val index = turns.indexOf(turn)
            if (index >= 0) turns[index] = turn.copy(thumb = thumb)
            refresh(tp)
        }

    fun personalizeNow() = BackgroundPersonalization.personalizeNow(app, app.background)

    fun activate(id: AdapterId) =
        act {
            val tp = app.thumbprint()
            tp.activate(id)
            refresh(tp)
        }

    fun rollBack() =
        act {
            val tp = app.thumbprint()
            tp.rollback()
            refresh(tp)
        }

    fun refresh() = act { refresh(app.thumbprint()) }

    private suspend fun refresh(tp: Thumbprint) {
        readiness = tp.readiness()
        val all = tp.adapters().asReversed()
        adapters.clear()
        adapters += all
    }

    private fun act(what: suspend () -> Unit): Job =
        viewModelScope.launch {
            try {
                error = null
                what()
            } catch (failed: ThumbprintException) {
                error = failed.reason
            } catch (failed: KeyLostException) {
                error = failed.message
            } catch (failed: IOException) {
                error = failed.message
            }
        }
}
