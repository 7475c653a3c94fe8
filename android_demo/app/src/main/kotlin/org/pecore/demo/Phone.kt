package org.pecore.demo

import org.pecore.core.PhoneCondition
import org.pecore.core.PhotoAccess
import org.pecore.core.PhotoLibrary
import java.io.File

/** What the search needs of the phone. */
interface Phone {
    val library: PhotoLibrary

    fun access(): PhotoAccess

    fun condition(): PhoneCondition

    /** Where the indexes are; null where the phone's storage is not there. */
    fun folder(): File?

    /** Does [what] after that many milliseconds, on any thread. */
    fun later(millis: Long, what: () -> Unit)
}
