package org.pecore.core

import java.io.File
import java.io.IOException
import java.security.MessageDigest

/** A file as the manifest lists it: [bytes] and [sha256] (hex) are what it should have. */
open class ListedFile internal constructor(val file: File, val bytes: Long, val sha256: String) {
    val name: String get() = file.name

    /** Refuses a file that is missing or not of the listed length; reads nothing of it. */
    internal fun checkLength() {
        if (!file.isFile) throw BundleException("$name is missing: $REINSTALL")
        if (file.length() != bytes) throw BundleException("$name has ${file.length()} bytes instead of $bytes: $REINSTALL")
    }

    /**
     * Reads the whole file and compares its SHA-256; a model of 186 MB takes a phone seconds.
     *
     * @param progress told the share that has been read, 0 to 1.
     * @throws BundleException it is missing, or is not the file the manifest means.
     */
    fun verify(progress: (Float) -> Unit = {}) {
        checkLength()
        val digest = MessageDigest.getInstance("SHA-256")
        val chunk = ByteArray(CHUNK)
        var done = 0L
        try {
            file.inputStream().use { stream ->
                while (true) {
                    val read = stream.read(chunk)
                    if (read < 0) break
                    digest.update(chunk, 0, read)
                    done += read
                    progress(done.toFloat() / bytes)
                }
            }
        } catch (error: IOException) {
            throw BundleException("$name can't be read (${error.message}): $REINSTALL", error)
        }
        check(digest.digest())
    }

    /** The whole file, for small ones, compared as [verify] does. */
    internal fun read(): ByteArray {
        checkLength()
        val data =
            try {
                file.readBytes()
            } catch (error: IOException) {
                throw BundleException("$name can't be read (${error.message}): $REINSTALL", error)
            }
        check(MessageDigest.getInstance("SHA-256").digest(data))
        return data
    }

    private fun check(digest: ByteArray) {
        val hex = digest.joinToString("") { "%02x".format(it) }
        if (hex != sha256) throw BundleException("$name is not the file the manifest means (its SHA-256 differs): $REINSTALL")
    }

    private companion object {
        const val CHUNK = 1 shl 20
    }
}

/** The file called [name] in [folder], with `bytes` and `sha256` of [entry]. */
internal fun listedFile(folder: File, name: String, entry: Section): ListedFile {
    if (name.isEmpty() || name == ".." || File(name).name != name) {
        throw BundleException("$MANIFEST lists a file called \"$name\", which is no plain name: $REINSTALL")
    }
    return ListedFile(File(folder, name), entry.long("bytes"), entry.text("sha256"))
}
