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
import androidx.activity.ComponentActivity
import androidx.activity.compose.BackHandler
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.RequestPermission
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.compose.ui.graphics.ImageBitmap
import androidx.compose.ui.graphics.asImageBitmap
import org.pecore.demo.camera.CameraSource
import org.pecore.demo.ui.DemoScreen
import org.pecore.demo.ui.DemoTheme
import java.io.File
import java.io.IOException
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.ThreadPoolExecutor
import java.util.concurrent.TimeUnit

/** The only Android component: hands photos, frames and taps to [DemoController], and draws what it says. */
class MainActivity : ComponentActivity() {
    private var state by mutableStateOf(UiState())
    private var picture by mutableStateOf<ImageBitmap?>(null)

    /** What comes after the end (a photo that was still being read) is dropped. */
    private val worker =
        ThreadPoolExecutor(1, 1, 0, TimeUnit.SECONDS, LinkedBlockingQueue(), { Thread(it, "model") }, ThreadPoolExecutor.DiscardPolicy())
    private lateinit var controller: DemoController
    private var camera: CameraSource? = null
    private val previews = arrayOfNulls<Bitmap>(3)
    private var nextPreview = 0

    private val photoPicker = registerForActivityResult(PickVisualMedia()) { uri -> if (uri != null) readPhoto(uri) }
    private val cameraPermission =
        registerForActivityResult(RequestPermission()) { granted ->
            if (granted) controller.cameraStarted() else controller.cameraStopped(NO_PERMISSION)
            if (granted) openCamera()
        }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        controller = DemoController({ getExternalFilesDir("bundles") }, settings(), device(), worker) { state = it }
        val actions = Taps()
        setContent {
            DemoTheme {
                BackHandler(state.screen != Screen.CLASSIFY) { controller.show(Screen.CLASSIFY) }
                DemoScreen(state, picture, actions)
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
        if (state.input == Input.CAMERA) openCamera()
    }

    override fun onStop() {
        closeCamera()
        super.onStop()
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= TRIM_MEMORY_BACKGROUND) controller.release()
    }

    override fun onDestroy() {
        controller.close()
        worker.shutdown()
        super.onDestroy()
    }

    private fun readPhoto(uri: Uri) {
        closeCamera()
        controller.cameraStopped()
        worker.execute {
            try {
                val bitmap = PhotoReader(contentResolver).read(uri)
                val argb = IntArray(bitmap.width * bitmap.height)
                bitmap.getPixels(argb, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
                runOnUiThread {
                    // A camera that was started since is the later wish.
                    if (state.input != Input.CAMERA) {
                        picture = bitmap.asImageBitmap()
                        controller.photo(argb, bitmap.width, bitmap.height)
                    }
                }
            } catch (e: IOException) {
                controller.photoFailed(e.message ?: "That photo can't be read.")
            }
        }
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
        ModelActions by controller {
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

    private fun settings(): Settings {
        val preferences = getSharedPreferences("demo", MODE_PRIVATE)
        return object : Settings {
            override fun get(key: String) = preferences.getString(key, null)

            override fun set(key: String, value: String) = preferences.edit().putString(key, value).apply()
        }
    }

    private fun device(): Map<String, String> =
        mapOf(
            "name" to "${Build.MANUFACTURER} ${Build.MODEL}",
            "system" to "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
            "hardware" to Build.HARDWARE,
            "soc" to if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else "",
            "build" to Build.FINGERPRINT,
        )

    private companion object {
        const val NO_PERMISSION = "The camera permission is off: tap Camera again, or allow it in the phone's settings."
    }
}
