package org.pecore.core

import org.junit.jupiter.api.Test
import kotlin.test.assertEquals

/** The table "Which text belongs to which images" in docs/artefacts.md. */
class WeightsTest {
    private val local = Weights("timm", "", false, null, "a")
    private val hub = Weights("hub", "", false, null, "b")
    private val synthetic = Weights("synthetic", "", true, 0, "c")

    @Test
    fun `text belongs to its own images alone`() {
        val cases =
            listOf(
                Triple(local, local.copy(kind = "meta"), true),
                Triple(local, local.copy(fingerprint = "z"), false),
                Triple(local, hub, false),
                Triple(hub, hub.copy(fingerprint = "z"), true),
                Triple(hub.copy(fingerprint = null), hub, true),
                Triple(local.copy(fingerprint = null), local.copy(fingerprint = null), false),
                Triple(synthetic.copy(fingerprint = null), synthetic, true),
                Triple(synthetic.copy(fingerprint = null), synthetic.copy(seed = 1), false),
                Triple(synthetic.copy(fingerprint = "z"), synthetic, false),
                Triple(synthetic, local.copy(fingerprint = "c"), false),
            )
        for ((text, vision, expected) in cases) assertEquals(expected, belong(text, vision), "$text with $vision")
    }
}
