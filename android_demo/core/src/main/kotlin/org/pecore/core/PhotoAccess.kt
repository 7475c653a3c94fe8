package org.pecore.core

/** Which photographs the phone lets the app see. */
enum class PhotoAccess { ALL, CHOSEN, NONE }

private const val OLD = "android.permission.READ_EXTERNAL_STORAGE"
private const val IMAGES = "android.permission.READ_MEDIA_IMAGES"
private const val CHOSEN = "android.permission.READ_MEDIA_VISUAL_USER_SELECTED"

/** What to ask for on a phone of this API level, all at once. */
fun photoPermissions(api: Int): List<String> =
    when {
        api >= 34 -> listOf(IMAGES, CHOSEN)
        api >= 33 -> listOf(IMAGES)
        else -> listOf(OLD)
    }

/** What was granted: from Android 14 on a person may choose single photographs, which grants only the second permission. */
fun photoAccess(api: Int, granted: (String) -> Boolean): PhotoAccess {
    val permissions = photoPermissions(api)
    return when {
        granted(permissions[0]) -> PhotoAccess.ALL
        permissions.drop(1).any(granted) -> PhotoAccess.CHOSEN
        else -> PhotoAccess.NONE
    }
}

/** What the search screen says about the permission. */
enum class AccessNotice {
    /** All photographs may be seen. */
    NOTHING,

    /** Nobody was asked yet: what it is for, and a button that asks. */
    ASK,

    /** It was refused. Asking again shows nothing on most phones: the way to the settings. */
    REFUSED,

    /** Some photographs were chosen: only those are found, and more can be chosen. */
    CHOSEN,
}

fun accessNotice(access: PhotoAccess, asked: Boolean): AccessNotice =
    when (access) {
        PhotoAccess.ALL -> AccessNotice.NOTHING
        PhotoAccess.CHOSEN -> AccessNotice.CHOSEN
        PhotoAccess.NONE -> if (asked) AccessNotice.REFUSED else AccessNotice.ASK
    }
