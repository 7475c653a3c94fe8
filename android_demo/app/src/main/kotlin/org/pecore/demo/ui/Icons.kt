package org.pecore.demo.ui

import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.PathFillType
import androidx.compose.ui.graphics.SolidColor
import androidx.compose.ui.graphics.vector.ImageVector
import androidx.compose.ui.graphics.vector.addPathNodes
import androidx.compose.ui.unit.dp

/** The icons of the app on Material's 24 dp grid: an icon library for them would be the largest part of the APK. */
object Icons {
    val back = icon("back", "M20 11H7.8l5.6-5.6L12 4l-8 8 8 8 1.4-1.4L7.8 13H20z")
    val more = icon("more", "M10.5 4h3v3h-3z M10.5 10.5h3v3h-3z M10.5 17h3v3h-3z")
    val photo =
        icon("photo", "M5 3H19a2 2 0 0 1 2 2V19a2 2 0 0 1 -2 2H5a2 2 0 0 1 -2 -2V5a2 2 0 0 1 2 -2z M5 18H19L14.5 12 11 16.5 8.5 13.5z")
    val camera =
        icon(
            "camera",
            "M9 4L7.2 6H4a2 2 0 0 0 -2 2V18a2 2 0 0 0 2 2H20a2 2 0 0 0 2 -2V8a2 2 0 0 0 -2 -2H16.8L15 4z M12 9a4 4 0 1 1 0 8a4 4 0 1 1 0 -8z",
        )
    val search =
        icon("search", "M10 3a7 7 0 1 1 0 14a7 7 0 1 1 0 -14z M10 5a5 5 0 1 0 0 10a5 5 0 1 0 0 -10z M15 16.4L16.4 15 21 19.6 19.6 21z")
    val edit = icon("edit", "M4 16.5V20H7.5L17 10.5 13.5 7z M14.6 5.9L16.5 4 20 7.5 18.1 9.4z")
    val remove = icon("remove", "M6.4 5L12 10.6 17.6 5 19 6.4 13.4 12 19 17.6 17.6 19 12 13.4 6.4 19 5 17.6 10.6 12 5 6.4z")
    val stop = icon("stop", "M6 6H18V18H6z")

    private fun icon(name: String, path: String): ImageVector =
        ImageVector
            .Builder(name, defaultWidth = 24.dp, defaultHeight = 24.dp, viewportWidth = 24f, viewportHeight = 24f)
            .addPath(addPathNodes(path), pathFillType = PathFillType.EvenOdd, fill = SolidColor(Color.Black))
            .build()
}
