package dev.thumbprint.android

import android.content.Context
import android.os.Build
import android.security.keystore.KeyGenParameterSpec
import android.security.keystore.KeyProperties
import android.security.keystore.StrongBoxUnavailableException
import android.util.AtomicFile
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import java.io.File
import java.security.GeneralSecurityException
import java.security.KeyStore
import java.security.SecureRandom
import javax.crypto.KeyGenerator
import javax.crypto.SecretKey

/**
 * The key of a database, drawn at random at first use. It lies in the app's folder that is not backed up, sealed under a key that never
 * leaves the device's Keystore. It can be had while the device is locked, since that is when it learns.
 *
 * On another device, after a reset, or once the Keystore has lost its key, what was recorded cannot be read any more.
 */
public class KeystoreKey(
    context: Context,
    private val alias: String = "thumbprint",
) {
    private val file = AtomicFile(File(context.noBackupFilesDir, "$alias.key"))
    private val keystore = KeyStore.getInstance(PROVIDER).apply { load(null) }

    /** 32 bytes for `Thumbprint.open(key = ...)`. Throws [KeyLostException] where the sealed key cannot be opened. */
    public suspend fun get(): ByteArray =
        withContext(Dispatchers.IO) {
            synchronized(LOCK) { if (file.baseFile.exists()) open() else create() }
        }

    /** Throws the key away, and with it all that is encrypted under it. */
    public suspend fun delete(): Unit =
        withContext(Dispatchers.IO) {
            synchronized(LOCK) {
                file.delete()
                keystore.deleteEntry(alias)
            }
        }

    private fun open(): ByteArray {
        try {
            val wrapping = keystore.getKey(alias, null) as SecretKey? ?: throw KeyLostException(alias, null)
            return unseal(file.readFully(), wrapping)
        } catch (error: GeneralSecurityException) {
            throw KeyLostException(alias, error)
        }
    }

    private fun create(): ByteArray {
        val key = ByteArray(KEY_BYTES).also(SecureRandom()::nextBytes)
        val wrapping = keystore.getKey(alias, null) as SecretKey? ?: wrappingKey()
        val stream = file.startWrite()
        try {
            stream.write(seal(key, wrapping))
            file.finishWrite(stream)
        } catch (error: Throwable) {
            file.failWrite(stream)
            throw error
        }
        return key
    }

    private fun wrappingKey(): SecretKey {
        val parameters =
            KeyGenParameterSpec
                .Builder(alias, KeyProperties.PURPOSE_ENCRYPT or KeyProperties.PURPOSE_DECRYPT)
                .setBlockModes(KeyProperties.BLOCK_MODE_GCM)
                .setEncryptionPaddings(KeyProperties.ENCRYPTION_PADDING_NONE)
                .setKeySize(8 * KEY_BYTES)
        val generator = KeyGenerator.getInstance(KeyProperties.KEY_ALGORITHM_AES, PROVIDER)
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.P) {
            try {
                generator.init(parameters.setIsStrongBoxBacked(true).build())
                return generator.generateKey()
            } catch (_: StrongBoxUnavailableException) {
                // Most devices have no such chip; the Keystore holds it all the same.
                parameters.setIsStrongBoxBacked(false)
            }
        }
        generator.init(parameters.build())
        return generator.generateKey()
    }

    private companion object {
        const val PROVIDER = "AndroidKeyStore"
        const val KEY_BYTES = 32
        val LOCK = Any()
    }
}

/** A sealed key cannot be opened: the Keystore has lost its own. What is encrypted under it is lost; delete both and begin anew. */
public class KeyLostException internal constructor(
    alias: String,
    cause: Throwable?,
) : Exception("the key $alias cannot be opened any more: delete it and the data folder, and begin anew", cause)
