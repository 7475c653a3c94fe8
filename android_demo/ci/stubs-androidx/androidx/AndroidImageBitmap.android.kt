@file:Suppress("UnusedReceiverParameter")

package androidx.compose.ui.graphics

import android.graphics.Bitmap

fun Bitmap.asImageBitmap(): ImageBitmap = TODO("androidx")
