package org.pecore.demo.photos

import android.content.ContentResolver
import android.content.ContentUris
import android.graphics.Bitmap
import android.net.Uri
import android.os.Build
import android.provider.MediaStore.Images.ImageColumns
import android.provider.MediaStore.Images.Media
import android.provider.MediaStore.Images.Thumbnails
import android.util.Size
import org.pecore.core.Photo
import org.pecore.core.PhotoLibrary
import org.pecore.core.Pixels
import java.io.IOException

/** The photographs of Android's media store that this app may see; without the permission none. */
class MediaLibrary(private val content: ContentResolver) : PhotoLibrary {
    private val reader = PhotoReader(content)

    override fun photos(): List<Photo> {
        val columns = arrayOf(ImageColumns._ID, ImageColumns.DATE_MODIFIED, ImageColumns.SIZE)
        val newestFirst = "${ImageColumns.DATE_ADDED} DESC, ${ImageColumns._ID} DESC"
        return content.query(Media.EXTERNAL_CONTENT_URI, columns, null, null, newestFirst)?.use { rows ->
            List(rows.count) {
                rows.moveToPosition(it)
                Photo(rows.getLong(0), rows.getLong(1), rows.getLong(2))
            }
        } ?: throw IOException("The phone's list of photographs can't be read.")
    }

    override fun has(id: Long): Boolean = content.query(uri(id), arrayOf(ImageColumns._ID), null, null, null)?.use { it.count > 0 } ?: false

    override fun read(id: Long): Pixels = reader.read(uri(id)).pixels()

    /** A small picture of it, or null where it is gone. Takes a while. */
    fun thumbnail(id: Long): Bitmap? =
        try {
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
                content.loadThumbnail(uri(id), Size(THUMBNAIL, THUMBNAIL), null)
            } else {
                @Suppress("DEPRECATION")
                Thumbnails.getThumbnail(content, id, Thumbnails.MINI_KIND, null)
            }
        } catch (_: IOException) {
            null
        } catch (_: SecurityException) {
            null
        }

    companion object {
        private const val THUMBNAIL = 320

        fun uri(id: Long): Uri = ContentUris.withAppendedId(Media.EXTERNAL_CONTENT_URI, id)
    }
}
