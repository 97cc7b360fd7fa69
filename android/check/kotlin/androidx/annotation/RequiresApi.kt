package androidx.annotation

/** In place of AndroidX's, which generated code names, where there is no AndroidX: for pom.xml alone. */
internal annotation class RequiresApi(val value: Int)
