package org.pecore.demo

import org.junit.jupiter.api.Test
import org.pecore.core.photoPermissions
import org.w3c.dom.Element
import java.io.File
import javax.xml.parsers.DocumentBuilderFactory
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class ManifestTest {
    private val manifest =
        DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(File("android_demo/app/src/main/AndroidManifest.xml"))

    private fun all(tag: String) = manifest.getElementsByTagName(tag).let { found -> List(found.length) { found.item(it) as Element } }

    /** Whatever is added here has to be a decision: above all a network. */
    @Test
    fun `nothing can leave the phone`() {
        val permissions = all("uses-permission").map { it.getAttribute("android:name").removePrefix("android.permission.") }
        assertEquals(
            setOf(
                "CAMERA",
                "READ_MEDIA_IMAGES",
                "READ_MEDIA_VISUAL_USER_SELECTED",
                "READ_EXTERNAL_STORAGE",
                "POST_NOTIFICATIONS",
                "FOREGROUND_SERVICE",
                "FOREGROUND_SERVICE_DATA_SYNC",
                "RECEIVE_BOOT_COMPLETED",
                "WAKE_LOCK",
            ),
            permissions.toSet(),
        )
        assertEquals("false", all("application").single().getAttribute("android:allowBackup"))
    }

    @Test
    fun `what is asked for is declared, and every component is a class`() {
        val declared = all("uses-permission").map { it.getAttribute("android:name") }
        (26..36).forEach { api -> assertTrue(declared.containsAll(photoPermissions(api)), "API $api") }
        val components = listOf("application", "activity", "service").flatMap(::all).map { it.getAttribute("android:name") }
        assertEquals(4, components.size)
        components.forEach { Class.forName(it, false, javaClass.classLoader) }
    }
}
