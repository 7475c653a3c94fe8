package org.pecore.core

import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max

/** Pillow's filters: how far one reaches, in pixels of the smaller of the two sides. */
enum class Filter(internal val radius: Double) {
    BILINEAR(1.0),
    BICUBIC(2.0),
    ;

    /** What it weighs at a distance. */
    internal fun weigh(distance: Double): Double {
        val x = abs(distance)
        return when {
            this == BILINEAR -> max(1.0 - x, 0.0)
            x < 1.0 -> (1.5 * x - 2.5) * x * x + 1.0
            x < 2.0 -> (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
            else -> 0.0
        }
    }
}

/**
 * How an image becomes the model's square (docs/preprocessing.md): squashed, or, where it is [crop], its shorter side to
 * the size and the centre cut out. [share] of the resized image's side is kept, in either case.
 */
data class Resize(val crop: Boolean = false, val filter: Filter = Filter.BILINEAR, val share: Double = 1.0) {
    /** Width and height to which an image is resized before the square of [size] pixels is cut from its middle. */
    internal fun target(width: Int, height: Int, size: Int): Pair<Int, Int> {
        val scaled = floor(size / share).toInt()
        return when {
            !crop -> scaled to scaled
            width <= height -> scaled to (scaled.toLong() * height / width).toInt()
            else -> (scaled.toLong() * width / height).toInt() to scaled
        }
    }

    internal companion object {
        /** What a manifest's `preprocessing` says. */
        fun of(preprocessing: Section): Resize {
            val name = preprocessing.text("resize")
            val given = preprocessing.textOrNull("filter")?.substringBefore(",") ?: "bilinear"
            val share = if ("crop_pct" in preprocessing.keys) preprocessing.number("crop_pct") else 1.0
            val filter = Filter.entries.firstOrNull { it.name.lowercase() == given }
            val parts = listOf("squash", if (share == 1.0) "" else "crop", if (given == "bilinear") "" else given)
            val expected = if (name == "crop") name else parts.filter { it.isNotEmpty() }.joinToString("-")
            if (filter == null || name != expected || share <= 0.0 || share > 1.0) {
                throw BundleException(
                    "the model wants its images resized by $name ($given, $share), which this app does not know: update the app",
                )
            }
            return Resize(name == "crop", filter, share)
        }
    }
}
