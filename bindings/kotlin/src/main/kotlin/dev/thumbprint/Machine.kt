package dev.thumbprint

import java.io.File

/** What computes here, and what can be learned on. */
public data class Machine(
    /** Version of the library. */
    val version: String,
    /** How ggml was built, in its own words. */
    val ggml: String,
    /** What the linked backends can compute on. */
    val devices: List<Device>,
    /** Instruction sets that the CPU backend was compiled for and found. */
    val cpuFeatures: List<String>,
    /** Processors that this process may use. */
    val processors: Long,
    /** Whether databases can be encrypted. */
    val encrypts: Boolean,
    /** `general.architecture` of models that can be trained. */
    val trainableArchitectures: List<String>,
    /** Types of matrices that can be trained on. */
    val trainableTypes: List<String>,
)

/** One device. */
public data class Device(
    /** The backend's name for it. */
    val name: String,
    /** The vendor's description. */
    val description: String,
    /** What kind of processor it is. */
    val kind: DeviceKind,
    /** Bytes free now; 0 where unknown. */
    val freeBytes: Long,
    /** Bytes in all; 0 where unknown. */
    val totalBytes: Long,
)

/** What kind of processor a device is. */
public enum class DeviceKind {
    /** The host's CPU. */
    CPU,

    /** A GPU with memory of its own. */
    GPU,

    /** A GPU that shares the host's memory. */
    INTEGRATED_GPU,

    /** A CPU-side accelerator. */
    ACCELERATOR,
}

/** Facts of the loaded model. */
public data class ModelInfo(
    /** The model's file. */
    val modelPath: File,
    /** Architecture, size and quantization in words. */
    val description: String,
    /** `general.architecture`. */
    val architecture: String,
    /** Tokens that a conversation can have, its reply included. */
    val nCtx: Int,
    /** Tokens that the model was trained for. */
    val nCtxTrain: Int,
    /** Tokens in the vocabulary. */
    val nVocab: Long,
    /** Compute threads. */
    val nThreads: Int,
    /** Layers on a GPU. */
    val nGpuLayers: Int?,
    /** SHA-256 of the chat template, in hex. */
    val templateHash: String,
    /** What was asked for or expected and is not so, to be shown: a CPU fallback, a missing chat template. */
    val warnings: List<String>,
)

/** Bytes of resident memory, on the CPU. */
public data class MemoryEstimate(
    /** To generate. */
    val inference: InferenceMemory,
    /** To learn beside that; `null` where the model cannot be trained. */
    val training: TrainingMemory?,
)

/** What generation takes, in bytes. */
public data class InferenceMemory(
    /** The mapped model. */
    val weights: Long,
    /** Keys and values of a whole context. */
    val cache: Long,
    /** What is computed with. */
    val compute: Long,
) {
    /** All of it, in bytes. */
    public val total: Long get() = weights + cache + compute
}

/** What training takes, in bytes. */
public data class TrainingMemory(
    /** Without a budget. */
    val fullSpeed: Long,
    /** The smallest budget that works. */
    val least: Long,
)

/** What opening a folder found. */
public data class OpenReport(
    /** There was no database; an empty one was created. */
    val created: Boolean,
    /** The folder was open in this process already; this is the same instance. */
    val alreadyOpen: Boolean,
    /** The database was brought here from this older version. */
    val migratedFrom: Int?,
    /** The database was damaged. It lies here now, untouched, and an empty one took its place. */
    val movedAside: File?,
)
