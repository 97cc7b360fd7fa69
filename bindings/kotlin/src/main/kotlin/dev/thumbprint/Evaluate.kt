package dev.thumbprint

/** How the rows of a file of multiple-choice questions are to be understood. */
public enum class ChoiceFormat {
    /** AI2's Reasoning Challenge. */
    ARC,

    /** HellaSwag. */
    HELLA_SWAG,

    /** Massive Multitask Language Understanding. */
    MMLU,
}

/** A share of questions, with how sure it is. */
public data class Accuracy(
    /** Questions answered right; where ties are possible they count half. */
    val right: Double,
    /** Questions asked. */
    val n: Long,
    /** [right] / [n]; 0 of none. */
    val share: Double,
    /** Its 95 % Wilson interval; from 0 to 1 of none. */
    val interval: Interval,
)

/** What a model knows of a file of multiple-choice questions. */
public data class ChoiceReport(
    /** Share of questions whose likeliest choice is right. */
    val acc: Accuracy,
    /** Share of questions whose likeliest choice for its length is right. */
    val accNorm: Accuracy,
    /** [accNorm] by subject, where the file names any. */
    val subjects: Map<String, Accuracy>,
    /** The answer to each question, in their order. */
    val answers: List<Answer>,
)

/** What a model answered. Choices are counted from 0. */
public data class Answer(
    /** The likeliest choice. */
    val pick: Int,
    /** The likeliest for its length. */
    val pickNorm: Int,
    /** The right one. */
    val gold: Int,
)

/** How often a model refuses harmless prompts. */
public data class RefusalReport(
    /** Share of harmless prompts that it refused. */
    val refused: Accuracy,
    /** The same by type, where the file has types. */
    val types: Map<String, Accuracy>,
    /** Whether each prompt was refused, in their order. */
    val refusals: List<Boolean>,
    /** Rows that should be refused, and were not asked. */
    val leftOut: Long,
)

/** How often a judge scored the better reply higher, ties counted half. */
public data class RewardReport(
    /** Over all comparisons. */
    val all: Accuracy,
    /** By category, where the file has any. */
    val subsets: Map<String, Accuracy>,
    /** By RewardBench's sections, where the categories are its own. */
    val sections: Map<String, Accuracy>,
    /** Comparisons whose prompt has feedback in the log: to a judge that learned from it they are not held out. */
    val seen: Long,
)
