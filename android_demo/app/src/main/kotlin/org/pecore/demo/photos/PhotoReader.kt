package org.pecore.demo.photos

import android.annotation.TargetApi
import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import android.os.Build
import org.pecore.core.Pixels
import java.io.IOException
import java.nio.ByteBuffer

/** The picture's pixels, ARGB and not premultiplied. */
fun Bitmap.pixels(): Pixels {
    val argb = IntArray(width * height)
    getPixels(argb, 0, width, 0, 0, width, height)
    return Pixels(argb, width, height)
}

/** A photo upright, its numbers as they are in the file: a colour profile is ignored (docs/preprocessing.md). */
class PhotoReader(private val content: ContentResolver) {
    /** Throws IOException, with a sentence, for what is no image or can't be read any more. */
    fun read(uri: Uri): Bitmap =
        try {
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.P) asStored(decode(uri)) else decodeBefore28(uri)
        } catch (e: SecurityException) {
            throw IOException("This app may not read that photo any more: pick it again.", e)
        }

    @TargetApi(Build.VERSION_CODES.P)
    private fun decode(uri: Uri): Bitmap =
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(content, uri)) { decoder, info, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            decoder.setTargetSampleSize(sampleSize(info.size.width, info.size.height))
        }

    private fun decodeBefore28(uri: Uri): Bitmap {
        val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        stream(uri) { BitmapFactory.decodeStream(it, null, size) }
        val options = BitmapFactory.Options().apply { inSampleSize = sampleSize(size.outWidth, size.outHeight) }
        val bitmap =
            asStored(stream(uri) { BitmapFactory.decodeStream(it, null, options) } ?: throw IOException("That file is no image."))
        val tag = stream(uri) { ExifInterface(it).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1) }
        val matrix = Matrix().apply { setValues(uprightMatrix(tag)) }
        return if (matrix.isIdentity) bitmap else Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, matrix, false)
    }

    /**
     * The same numbers, called sRGB. Decoders keep a photo in the colour space that its profile names, and getPixels
     * converts from there: a red of Display P3 would come out 20 to 40 steps away from what Python and the browser read.
     */
    private fun asStored(photo: Bitmap): Bitmap {
        if (photo.colorSpace?.isSrgb != false) return photo
        val bitmap = if (photo.config == Bitmap.Config.ARGB_8888) photo else photo.copy(Bitmap.Config.ARGB_8888, false)
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            bitmap.setColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
            return bitmap
        }
        val numbers = ByteBuffer.allocate(bitmap.byteCount)
        bitmap.copyPixelsToBuffer(numbers)
        numbers.rewind()
        return Bitmap.createBitmap(bitmap.width, bitmap.height, Bitmap.Config.ARGB_8888).apply { copyPixelsFromBuffer(numbers) }
    }

    private fun <T> stream(uri: Uri, block: (java.io.InputStream) -> T): T =
        content.openInputStream(uri)?.use(block) ?: throw IOException("That photo can't be opened.")
}

/** Every n-th pixel of photos beyond 4096 pixels a side: 200 megapixels would be 800 MB. Pictures below are read whole. */
fun sampleSize(width: Int, height: Int): Int {
    var sample = 1
    while (maxOf(width, height) / sample > LONGEST_SIDE) sample *= 2
    return sample
}

private const val LONGEST_SIDE = 4096

/** EXIF's orientation tag (1 to 8; anything else is upright) as a row-major 3x3 matrix that undoes it. */
fun uprightMatrix(orientation: Int): FloatArray {
    val (a, b, c, d) =
        when (orientation) {
            2 -> listOf(-1, 0, 0, 1)
            3 -> listOf(-1, 0, 0, -1)
            4 -> listOf(1, 0, 0, -1)
            5 -> listOf(0, 1, 1, 0)
            6 -> listOf(0, -1, 1, 0)
            7 -> listOf(0, -1, -1, 0)
            8 -> listOf(0, 1, -1, 0)
            else -> listOf(1, 0, 0, 1)
        }.map { it.toFloat() }
    return floatArrayOf(a, b, 0f, c, d, 0f, 0f, 0f, 1f)
}
