package dev.thumbprint.android

import java.io.File

/** What is to be learned where, and when. It outlives the process: the system starts workers in new ones. */
public data class BackgroundOptions(
    /** The data folder. */
    val dataDir: File,
    /** The model. */
    val model: File,
    /** `EngineOptions.nCtx` as the app opens the folder with it: whoever opens it first in a process decides for both. */
    val nCtx: Int? = null,
    /** Most memory of training, MiB; by default as much as the device has to spare at the time. */
    val memoryMib: Long? = null,
    /** Whether the device must be unused. It charges in any case, and neither battery nor storage is low. */
    val requiresDeviceIdle: Boolean = false,
    /** Alias of the [KeystoreKey] under which the database is encrypted; `null` where it is not. */
    val keyAlias: String? = null,
    /** When a chunk ends. */
    val limits: Limits = Limits(),
    /** What the person sees while the device learns because they asked for it. */
    val notice: Notice? = null,
) {
    /** As names and plain values, for a worker's input. */
    public fun toMap(): Map<String, Any?> =
        mapOf(
            "dataDir" to dataDir.path,
            "model" to model.path,
            "nCtx" to (nCtx ?: -1),
            "memoryMib" to (memoryMib ?: -1L),
            "requiresDeviceIdle" to requiresDeviceIdle,
            "keyAlias" to keyAlias,
            "seconds" to limits.seconds,
            "restAt" to limits.restAt.name,
            "spareBytes" to limits.spareBytes,
            "pollSeconds" to limits.pollSeconds,
            "channelId" to notice?.channelId,
            "title" to notice?.title,
            "icon" to (notice?.icon ?: 0),
        )

    /** From a worker's input. */
    public companion object {
        /** What [toMap] made. Throws [IllegalArgumentException] for anything else. */
        public fun of(map: Map<String, Any?>): BackgroundOptions {
            fun <T> get(name: String): T {
                @Suppress("UNCHECKED_CAST")
                return requireNotNull(map[name]) { "a worker's input lacks $name" } as T
            }
            val channelId = map["channelId"] as String?
            return BackgroundOptions(
                dataDir = File(get<String>("dataDir")),
                model = File(get<String>("model")),
                nCtx = get<Int>("nCtx").takeIf { it >= 0 },
                memoryMib = get<Long>("memoryMib").takeIf { it >= 0 },
                requiresDeviceIdle = get("requiresDeviceIdle"),
                keyAlias = map["keyAlias"] as String?,
                limits = Limits(get("seconds"), Thermal.valueOf(get("restAt")), get("spareBytes"), get("pollSeconds")),
                notice = channelId?.let { Notice(it, get("title"), get("icon")) },
            )
        }
    }
}

/** The notification of a job that the person has started. */
public data class Notice(
    /** Id of its channel, which is made if it is missing. */
    val channelId: String,
    /** Its title and the channel's name, in the person's language. */
    val title: String,
    /** Resource of its small icon. */
    val icon: Int,
)
