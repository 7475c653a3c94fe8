package org.pecore.demo

import android.Manifest
import android.content.ClipData
import android.content.ClipboardManager
import android.content.Intent
import android.content.pm.PackageManager
import android.content.res.Configuration
import android.graphics.Bitmap
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.provider.Settings
import androidx.activity.ComponentActivity
import androidx.activity.compose.BackHandler
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.RequestMultiplePermissions
import androidx.activity.result.contract.ActivityResultContracts.RequestPermission
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.asImageBitmap
import org.pecore.core.PhotoAccess
import org.pecore.core.Pixels
import org.pecore.core.photoPermissions
import org.pecore.demo.camera.CameraSource
import org.pecore.demo.photos.IndexingService
import org.pecore.demo.photos.MediaLibrary
import org.pecore.demo.photos.MediaThumbnails
import org.pecore.demo.photos.PhotoReader
import org.pecore.demo.photos.pixels
import org.pecore.demo.ui.DemoScreen
import org.pecore.demo.ui.DemoTheme
import java.io.File
import java.io.IOException

/** Hands photos, frames and taps to the controllers, and draws what they say. */
class MainActivity : ComponentActivity() {
    private val app get() = application as DemoApp
    private val state get() = app.state
    private val controller get() = app.controller
    private var picture by mutableStateOf<ImageBitmap?>(null)
    private var camera: CameraSource? = null
    private val previews = arrayOfNulls<Bitmap>(3)
    private var nextPreview = 0

    private val photoPicker = registerForActivityResult(PickVisualMedia()) { uri -> if (uri != null) readPhoto(uri) }
    private val examplePicker = registerForActivityResult(PickVisualMedia()) { uri -> if (uri != null) readExample(uri) }
    private val cameraPermission =
        registerForActivityResult(RequestPermission()) { granted ->
            if (granted) controller.cameraStarted() else controller.cameraStopped(NO_PERMISSION)
            if (granted) openCamera()
        }
    private val photoPermissions =
        registerForActivityResult(RequestMultiplePermissions()) {
            app.search.wasAsked()
            if (app.phone.access() != PhotoAccess.NONE) app.indexWhileCharging(state.search.whileCharging)
        }

    /** Without it the indexing goes on all the same, unseen. */
    private val notificationPermission = registerForActivityResult(RequestPermission()) { startIndexing() }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        val actions = Taps()
        val thumbnails = MediaThumbnails(app.phone.library)
        setContent {
            DemoTheme {
                BackHandler(state.screen != Screen.CLASSIFY) { actions.show(Screen.CLASSIFY) }
                DemoScreen(state, picture, actions, thumbnails)
            }
        }
    }

    /** Night mode comes without a new activity: the system bars' icons change their colour with it. */
    override fun onConfigurationChanged(newConfig: Configuration) {
        super.onConfigurationChanged(newConfig)
        enableEdgeToEdge()
    }

    override fun onStart() {
        super.onStart()
        controller.resume()
        app.search.refresh()
        if (state.input == Input.CAMERA) openCamera()
    }

    override fun onStop() {
        closeCamera()
        super.onStop()
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= TRIM_MEMORY_BACKGROUND) app.rest(close = false)
    }

    override fun onDestroy() {
        app.rest(close = true)
        super.onDestroy()
    }

    private fun readPhoto(uri: Uri) {
        closeCamera()
        controller.cameraStopped()
        read(uri) { bitmap, pixels ->
            // A camera that was started since is the later wish.
            if (state.input != Input.CAMERA) {
                picture = bitmap.asImageBitmap()
                controller.photo(pixels)
            }
        }
    }

    private fun readExample(uri: Uri) = read(uri) { _, pixels -> app.search.searchPicture(pixels) }

    private fun read(uri: Uri, use: (Bitmap, Pixels) -> Unit) =
        app.worker.execute {
            try {
                val bitmap = PhotoReader(contentResolver).read(uri)
                val pixels = bitmap.pixels()
                runOnUiThread { use(bitmap, pixels) }
            } catch (e: IOException) {
                controller.photoFailed(e.message ?: "That photo can't be read.")
            }
        }

    private fun startIndexing() {
        startForegroundService(Intent(this, IndexingService::class.java))
    }

    /** The permission may have been taken back while the app was away. */
    private fun openCamera() {
        if (checkSelfPermission(Manifest.permission.CAMERA) != PackageManager.PERMISSION_GRANTED) {
            return controller.cameraStopped(NO_PERMISSION)
        }
        closeCamera()
        camera = CameraSource(this, ::onFrame, controller::cameraStopped).also { it.start() }
    }

    private fun closeCamera() {
        camera?.close()
        camera = null
    }

    /** On the camera's thread. Three bitmaps in turn: the one that is being drawn is not the one that is written. */
    private fun onFrame(argb: IntArray, width: Int, height: Int): Boolean {
        val old = previews[nextPreview]
        val bitmap =
            if (old?.width == width && old.height == height) old else Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        previews[nextPreview] = bitmap
        nextPreview = (nextPreview + 1) % previews.size
        bitmap.setPixels(argb, 0, width, 0, 0, width, height)
        picture = bitmap.asImageBitmap()
        return controller.frame(argb, width, height)
    }

    private inner class Taps :
        Actions,
        ModelActions by controller,
        SearchActions by app.search {
        override fun show(screen: Screen) {
            controller.show(screen)
            if (screen == Screen.SEARCH) app.search.refresh()
        }

        override fun pickExample() = examplePicker.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly))

        override fun askForPhotos() = photoPermissions.launch(photoPermissions(Build.VERSION.SDK_INT).toTypedArray())

        override fun openSettings() =
            startActivity(Intent(Settings.ACTION_APPLICATION_DETAILS_SETTINGS, Uri.fromParts("package", packageName, null)))

        override fun indexNow() =
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
                notificationPermission.launch(Manifest.permission.POST_NOTIFICATIONS)
            } else {
                startIndexing()
            }

        override fun indexWhileCharging(on: Boolean) = app.indexWhileCharging(on)

        override fun open(id: Long) {
            val view = Intent(Intent.ACTION_VIEW, MediaLibrary.uri(id)).addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
            startActivity(Intent.createChooser(view, null))
        }

        override fun pickPhoto() = photoPicker.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly))

        override fun startCamera() = cameraPermission.launch(Manifest.permission.CAMERA)

        override fun stopCamera() {
            closeCamera()
            controller.cameraStopped()
        }

        /** Frames that were converted meanwhile would slow the runs down. */
        override fun runSelfTest() {
            stopCamera()
            controller.runSelfTest()
        }

        override fun shareReport() {
            val report = controller.report ?: return
            val json = report.toJson()
            try {
                getExternalFilesDir("reports")?.let { File(it, "${report.name}.json").writeText(json) }
            } catch (_: IOException) {
                // A full storage: the report is shared all the same.
            }
            val send = Intent(Intent.ACTION_SEND).setType("text/plain").putExtra(Intent.EXTRA_TEXT, json)
            startActivity(Intent.createChooser(send.putExtra(Intent.EXTRA_SUBJECT, "${report.name} on ${Build.MODEL}"), null))
        }

        override fun copy(text: String) =
            getSystemService(ClipboardManager::class.java).setPrimaryClip(ClipData.newPlainText("command", text))
    }

    private companion object {
        const val NO_PERMISSION = "The camera permission is off: tap Camera again, or allow it in the phone's settings."
    }
}
