package org.pecore.core

import org.junit.jupiter.api.Test
import kotlin.test.assertEquals

class PhotoAccessTest {
    private val images = "android.permission.READ_MEDIA_IMAGES"
    private val chosen = "android.permission.READ_MEDIA_VISUAL_USER_SELECTED"
    private val old = "android.permission.READ_EXTERNAL_STORAGE"

    @Test
    fun `every Android is asked for what it has`() {
        assertEquals(listOf(old), photoPermissions(26))
        assertEquals(listOf(old), photoPermissions(32))
        assertEquals(listOf(images), photoPermissions(33))
        assertEquals(listOf(images, chosen), photoPermissions(34))
    }

    @Test
    fun `what was granted, and what is said then`() {
        val cases =
            listOf(
                Triple(30, setOf(old), PhotoAccess.ALL),
                Triple(30, setOf(images), PhotoAccess.NONE),
                Triple(33, setOf(images), PhotoAccess.ALL),
                Triple(33, setOf(chosen), PhotoAccess.NONE),
                Triple(34, setOf(images, chosen), PhotoAccess.ALL),
                Triple(35, setOf(chosen), PhotoAccess.CHOSEN),
                Triple(35, emptySet(), PhotoAccess.NONE),
            )
        for ((api, granted, expected) in cases) assertEquals(expected, photoAccess(api, granted::contains), "$api $granted")
        assertEquals(AccessNotice.ASK, accessNotice(PhotoAccess.NONE, asked = false))
        assertEquals(AccessNotice.REFUSED, accessNotice(PhotoAccess.NONE, asked = true))
        assertEquals(AccessNotice.CHOSEN, accessNotice(PhotoAccess.CHOSEN, asked = true))
        assertEquals(AccessNotice.NOTHING, accessNotice(PhotoAccess.ALL, asked = false))
    }
}
