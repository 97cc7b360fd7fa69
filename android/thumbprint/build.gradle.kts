import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.kotlin.android)
    `maven-publish`
}

group = "dev.thumbprint"
version = "0.1.0"

// Made by scripts/build-android: a native library for each ABI, and the Kotlin that uniffi generates from it.
val natives = rootProject.file("build-native")

android {
    namespace = "dev.thumbprint.android"
    compileSdk = 36

    defaultConfig {
        minSdk = 28
        consumerProguardFiles("consumer-rules.pro")
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }

    sourceSets["main"].apply {
        kotlin.srcDirs(
            "src/portable/kotlin",
            "src/main/kotlin",
            "src/androidx/kotlin",
            rootProject.file("../bindings/kotlin/src/main/kotlin"),
            natives.resolve("kotlin"),
        )
        jniLibs.srcDirs(natives.resolve("jniLibs"))
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    packaging {
        // Stored as they are and aligned, so that they are mapped from the APK: 16 KB pages need it.
        jniLibs.useLegacyPackaging = false
    }

    lint {
        abortOnError = true
        warningsAsErrors = false
    }

    publishing {
        singleVariant("release") { withSourcesJar() }
    }
}

kotlin {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_17
    }
}

tasks.named("preBuild") {
    doFirst {
        check(natives.resolve("jniLibs").isDirectory) { "no native libraries: run scripts/build-android first" }
    }
}

dependencies {
    api(libs.coroutines.android)
    // The AAR, which has JNA's own library for each ABI.
    implementation("${libs.jna.get()}@aar")
    implementation(libs.annotation)
    api(libs.work.runtime)
}

// `gradle :thumbprint:publishToMavenLocal`, or `:thumbprint:publishReleasePublicationToBuiltRepository` into build/repository.
publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = "thumbprint-android"
            // The plugin for Android makes the component once it has been configured.
            afterEvaluate { from(components["release"]) }
            pom {
                name = "Thumbprint for Android"
                description = "An embedded personalization runtime: chat with a quantized model, and let it learn from thumbs on the device"
                licenses {
                    license { name = "MIT OR Apache-2.0" }
                }
            }
        }
    }
    repositories {
        maven {
            name = "built"
            url = uri(layout.buildDirectory.dir("repository"))
        }
    }
}
