package org.pecore.demo.camera

import android.annotation.SuppressLint
import android.content.Context
import android.graphics.ImageFormat
import android.hardware.camera2.CameraAccessException
import android.hardware.camera2.CameraCaptureSession
import android.hardware.camera2.CameraCharacteristics
import android.hardware.camera2.CameraDevice
import android.hardware.camera2.CameraManager
import android.hardware.camera2.CaptureRequest
import android.hardware.display.DisplayManager
import android.media.Image
import android.media.ImageReader
import android.os.Handler
import android.os.HandlerThread
import android.util.Size
import android.view.Display
import android.view.Surface
import java.util.concurrent.CountDownLatch

/**
 * The back camera's frames, upright, on a thread of its own. Camera2, since CameraX would be one more library.
 *
 * [onFrame] gets a buffer, its width and its height, and says whether it keeps the buffer until the next frame it takes;
 * there are two, so one is always free. [onProblem] gets a sentence when the camera is or becomes unavailable.
 */
class CameraSource(
    private val context: Context,
    private val onFrame: (argb: IntArray, width: Int, height: Int) -> Boolean,
    private val onProblem: (String) -> Unit,
) : AutoCloseable {
    private val thread = HandlerThread("camera").apply { start() }
    private val handler = Handler(thread.looper)
    private val displays = context.getSystemService(DisplayManager::class.java)
    private val converter = YuvConverter()
    private var buffers = arrayOf(IntArray(0), IntArray(0))
    private var current = 0
    private var sensorRotation = 0
    private var reader: ImageReader? = null
    private var device: CameraDevice? = null
    private var opening = false
    private var closed = false

    /** The CAMERA permission has been granted; it may be gone at any time all the same. */
    fun start() {
        handler.post { guarded { open() } }
    }

    /** Returns when no frame is under way and none will come. */
    override fun close() {
        val done = CountDownLatch(1)
        val posted =
            handler.post {
                letGo()
                // A camera that is still being opened arrives on this thread, to be closed there.
                if (!opening) thread.quitSafely()
                done.countDown()
            }
        if (posted) done.await()
    }

    private fun letGo() {
        closed = true
        device?.close()
        reader?.close()
    }

    /** Says the first problem; those that come of closing are none. */
    private fun fail(problem: String) {
        if (closed) return
        letGo()
        onProblem(problem)
    }

    @SuppressLint("MissingPermission")
    private fun open() {
        if (closed) return
        val manager = context.getSystemService(CameraManager::class.java)
        val id =
            manager.cameraIdList.firstOrNull {
                manager.getCameraCharacteristics(it)[CameraCharacteristics.LENS_FACING] == CameraCharacteristics.LENS_FACING_BACK
            } ?: return fail("This phone has no back camera.")
        val traits = manager.getCameraCharacteristics(id)
        sensorRotation = traits[CameraCharacteristics.SENSOR_ORIENTATION] ?: 0
        val sizes = traits[CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP]?.getOutputSizes(ImageFormat.YUV_420_888)
        val size = frameSize(sizes.orEmpty().toList()) ?: return fail("The back camera gives no YUV frames.")
        val reader = ImageReader.newInstance(size.width, size.height, ImageFormat.YUV_420_888, 2)
        this.reader = reader
        reader.setOnImageAvailableListener({ guarded { it.acquireLatestImage()?.use(::deliver) } }, handler)
        manager.openCamera(id, Opened(reader), handler)
        opening = true
    }

    private fun deliver(image: Image) {
        if (closed) return
        val turned = displays.getDisplay(Display.DEFAULT_DISPLAY).rotation * DEGREES_PER_QUARTER
        val rotation = uprightRotation(sensorRotation, turned)
        val (y, u, v) = image.planes
        val planes = YuvPlanes(y.buffer, y.rowStride, u.buffer, v.buffer, u.rowStride, u.pixelStride)
        if (buffers[current].size < image.width * image.height) buffers[current] = IntArray(image.width * image.height)
        val argb = buffers[current]
        converter.convert(planes, image.width, image.height, rotation, argb)
        val upright = rotation % 180 == 0
        val width = if (upright) image.width else image.height
        val height = if (upright) image.height else image.width
        if (onFrame(argb, width, height)) current = 1 - current
    }

    private inner class Opened(private val reader: ImageReader) : CameraDevice.StateCallback() {
        override fun onOpened(camera: CameraDevice) {
            opening = false
            device = camera
            if (closed) end(camera) else guarded { startSession(camera, reader.surface) }
        }

        override fun onDisconnected(camera: CameraDevice) {
            end(camera)
            fail("Another app took the camera. Start it again when that one is done.")
        }

        override fun onError(camera: CameraDevice, error: Int) {
            end(camera)
            fail("The camera stopped (Camera2 error $error). Start it again.")
        }

        private fun end(camera: CameraDevice) {
            opening = false
            camera.close()
            if (closed) thread.quitSafely()
        }
    }

    // SessionConfiguration, its successor, is there from API 28 only.
    @Suppress("DEPRECATION")
    private fun startSession(camera: CameraDevice, surface: Surface) {
        val request =
            camera.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW).apply {
                addTarget(surface)
                set(CaptureRequest.CONTROL_AF_MODE, CaptureRequest.CONTROL_AF_MODE_CONTINUOUS_PICTURE)
            }
        val callback =
            object : CameraCaptureSession.StateCallback() {
                override fun onConfigured(session: CameraCaptureSession) {
                    if (!closed) guarded { session.setRepeatingRequest(request.build(), null, handler) }
                }

                override fun onConfigureFailed(session: CameraCaptureSession) {
                    fail("The camera does not give frames of this size.")
                }
            }
        camera.createCaptureSession(listOf(surface), callback, handler)
    }

    private fun guarded(block: () -> Unit) {
        try {
            block()
        } catch (e: SecurityException) {
            fail("The camera permission was taken back (${e.message}).")
        } catch (e: CameraAccessException) {
            fail("The camera is not available: ${e.message}")
        } catch (e: IllegalArgumentException) {
            fail("The camera does not take what it is asked: ${e.message}")
        } catch (e: IllegalStateException) {
            // A device that is closing under way; a problem only as long as somebody waits for frames.
            fail("The camera stopped: ${e.message}")
        }
    }

    private companion object {
        const val DEGREES_PER_QUARTER = 90
    }
}

/** The smallest size with both sides of 480 or more, of equal ones the one nearest to 4:3: more than any PE input but G14's needs. */
fun frameSize(sizes: List<Size>): Size? =
    sizes
        .filter { minOf(it.width, it.height) >= 480 }
        .minWithOrNull(compareBy({ it.width * it.height }, { it.width * 3 - it.height * 4 }))
        ?: sizes.maxByOrNull { it.width * it.height }
