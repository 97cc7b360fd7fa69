package dev.thumbprint.android

import java.security.GeneralSecurityException
import javax.crypto.Cipher
import javax.crypto.SecretKey
import javax.crypto.spec.GCMParameterSpec

private const val TRANSFORMATION = "AES/GCM/NoPadding"
private const val NONCE_BYTES = 12
private const val TAG_BITS = 128

/** [secret] under [key]: the nonce, which the cipher draws, and then the text with its tag. */
internal fun seal(secret: ByteArray, key: SecretKey): ByteArray {
    val cipher = Cipher.getInstance(TRANSFORMATION)
    cipher.init(Cipher.ENCRYPT_MODE, key)
    check(cipher.iv.size == NONCE_BYTES) { "a nonce of ${cipher.iv.size} bytes" }
    return cipher.iv + cipher.doFinal(secret)
}

/** What was sealed. Throws [GeneralSecurityException] under another key, and for what was changed. */
internal fun unseal(sealed: ByteArray, key: SecretKey): ByteArray {
    if (sealed.size <= NONCE_BYTES) throw GeneralSecurityException("${sealed.size} bytes are no sealed key")
    val cipher = Cipher.getInstance(TRANSFORMATION)
    cipher.init(Cipher.DECRYPT_MODE, key, GCMParameterSpec(TAG_BITS, sealed, 0, NONCE_BYTES))
    return cipher.doFinal(sealed, NONCE_BYTES, sealed.size - NONCE_BYTES)
}
