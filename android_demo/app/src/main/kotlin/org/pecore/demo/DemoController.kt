package org.pecore.demo

import com.google.ai.edge.litert.LiteRtException
import org.pecore.core.Bundle
import org.pecore.core.BundleException
import org.pecore.core.Classifier
import org.pecore.core.DeviceGate
import org.pecore.core.DeviceReport
import org.pecore.core.Latencies
import org.pecore.core.ListedFile
import org.pecore.core.OwnLabels
import org.pecore.core.Pixels
import org.pecore.demo.model.Compute
import org.pecore.demo.model.EncoderException
import org.pecore.demo.model.LoadedBundle
import org.pecore.demo.model.SelfTest
import org.pecore.demo.model.openEncoder
import java.io.File
import java.util.Locale
import java.util.concurrent.CancellationException
import java.util.concurrent.Executor
import java.util.concurrent.atomic.AtomicBoolean

/** LiteRT's version in gradle/libs.versions.toml, for the report. */
const val LITERT_VERSION = "2.3.2"

/** What is remembered from one start to the next. */
interface Settings {
    operator fun get(key: String): String?

    operator fun set(key: String, value: String)
}

/**
 * What the app does, without Android.
 *
 * [worker] is one thread: it alone touches models, buffers and files. Everything else may be called from anywhere and
 * returns at once; what has changed is in [store].
 *
 * @param folder of bundles; null where the phone's storage is not there.
 * @param device what the phone says of itself: `name`, `system`, ...
 */
class DemoController(
    private val folder: () -> File?,
    private val settings: Settings,
    private val device: Map<String, String>,
    private val worker: Executor,
    private val store: StateStore,
    private val nanos: () -> Long = System::nanoTime,
) : ModelActions {
    val state: UiState get() = store.state

    /** The last self-test's report, to be shared. */
    @Volatile
    var report: DeviceReport? = null
        private set

    /** Set from the moment a camera frame is taken until it has been classified: the frames between are dropped. */
    private val busy = AtomicBoolean()

    @Volatile
    private var closing = false

    // The worker's own.
    private var loaded: LoadedBundle? = null
    private var classifier: Classifier? = null
    private var photo: Pixels? = null
    private var embedding: FloatArray? = null
    private val latencies = Latencies()

    /** Brings the model up, unless it is: at the start, and when the app comes back to the screen. */
    fun resume() {
        closing = false
        worker.execute { if (loaded == null) load() else latencies.reset() }
    }

    /** The bundle that is loaded; loads it where it is not; null where none can be. On the worker alone. */
    fun loaded(): LoadedBundle? {
        closing = false
        if (loaded == null) load()
        return loaded
    }

    /** Gives the model's memory back; [resume] loads it again. */
    fun release() = worker.execute { unload() }

    override fun reload() = worker.execute { load() }

    override fun show(screen: Screen) = update { copy(screen = screen) }

    override fun chooseBundle(name: String) = choose("bundle", name)

    override fun chooseFile(name: String) = choose("file", name)

    override fun chooseCompute(compute: Compute) = choose("compute", compute.name)

    private fun choose(key: String, value: String) =
        worker.execute {
            settings[key] = value
            load()
        }

    /** A picked photo: opaque or not, upright; kept, so that another model can classify it as well. */
    fun photo(pixels: Pixels) {
        update { copy(input = Input.PHOTO, inputProblem = null) }
        worker.execute {
            photo = pixels
            latencies.reset()
            loaded?.let { if (state.input == Input.PHOTO) classify(it, pixels) }
        }
    }

    /** A camera's frame; true where it will be classified, and [argb] is this object's until a later frame is taken. */
    fun frame(argb: IntArray, width: Int, height: Int): Boolean {
        if (state.input != Input.CAMERA || state.model !is ModelState.Ready || !busy.compareAndSet(false, true)) return false
        worker.execute {
            try {
                loaded?.let { if (state.input == Input.CAMERA) classify(it, Pixels(argb, width, height)) }
            } finally {
                busy.set(false)
            }
        }
        return true
    }

    /** At once, as [cameraStopped]: a camera that fails while the worker is busy stays stopped. */
    fun cameraStarted() {
        update { copy(input = Input.CAMERA, inputProblem = null, top = emptyList(), timing = null) }
        worker.execute {
            photo = null
            embedding = null
            latencies.reset()
        }
    }

    /** [problem]: why there is no picture, or null where the camera was stopped on purpose. */
    fun cameraStopped(problem: String? = null) =
        update {
            copy(
                input =
                    if (input ==
                        Input.CAMERA
                    ) {
                        Input.NONE
                    } else {
                        input
                    },
                inputProblem = problem,
            )
        }

    fun photoFailed(problem: String) = update { copy(inputProblem = problem) }

    override fun setLabels(indices: Collection<Int>, on: Boolean) {
        update {
            // A tap may come for labels that a load has just taken away.
            val known = indices.filter { it in labels.indices }.toSet()
            copy(labelsOff = if (on) labelsOff - known else labelsOff + known)
        }
        worker.execute {
            val now = state
            if (now.labels.isEmpty()) return@execute
            settings[offKey(now.ownChosen)] = now.labelsOff.joinToString("\n") { i -> now.labels[i] }
            rank()
        }
    }

    override fun chooseLabels(own: Boolean) = relabel("own labels chosen") { if (own) "yes" else "no" }

    override fun addLabel(name: String) = changeOwn { it.add(name) }

    override fun renameLabel(name: String, to: String) = changeOwn { it.rename(name, to) }

    override fun moveLabel(name: String, by: Int) = changeOwn { it.move(name, by) }

    override fun removeLabel(name: String) = changeOwn { it.remove(name) }

    override fun setTemplate(template: String) = changeOwn { it.copy(template = template) }

    /** On the worker: of two quick taps the second one changes what the first one left. */
    private fun changeOwn(change: (OwnLabels) -> OwnLabels) = relabel(OWN) { change(OwnLabels.parse(it)).format() }

    private fun relabel(key: String, change: (before: String) -> String) =
        worker.execute {
            settings["$key ${state.bundle}"] = change(settings["$key ${state.bundle}"].orEmpty())
            loaded?.let(::label)
            rank()
        }

    /** Takes up the labels that were chosen: the bundle's, or a person's own, which the text tower embeds. */
    private fun label(model: LoadedBundle) {
        val bundle = model.bundle
        val own = OwnLabels.parse(settings["$OWN ${state.bundle}"].orEmpty())
        val wanted = bundle.labels == null || settings["own labels chosen ${state.bundle}"] == "yes"
        var problem: String? = null
        val labels =
            if (wanted) {
                orSentence({ null.also { _ -> problem = it } }) {
                    own.problem?.let { throw BundleException(it) }
                    update { copy(labelsBusy = own.names.isNotEmpty()) }
                    model.embed(own)
                }
            } else {
                bundle.labels
            }
        classifier = labels?.let(::Classifier)
        val names = labels?.names ?: if (wanted) own.names else emptyList()
        val off = settings[offKey(wanted)]?.split("\n").orEmpty().toSet()
        update {
            copy(own = own, ownChosen = wanted, bundleLabels = bundle.labels != null, labelsBusy = false, labelsProblem = problem)
                .copy(labels = names, labelsOff = names.indices.filter { names[it] in off }.toSet())
        }
    }

    private fun offKey(own: Boolean) = (if (own) "off own " else "off ") + state.bundle

    override fun runSelfTest() =
        worker.execute {
            val bundle = loaded?.bundle
            unload()
            update { copy(model = ModelState.Loading("Running the self-test"), selfTest = SelfTestState.Running("Starting")) }
            val outcome =
                try {
                    orSentence({ SelfTestState.Failed(it) }) {
                        val test = SelfTest(bundle ?: Bundle.open(chosenFolder()), device, mapOf("litert" to LITERT_VERSION), nanos)
                        val result = test.run(::step)
                        report = result
                        SelfTestState.Done(result.passed, result.gates.map(::line))
                    }
                } catch (_: CancellationException) {
                    return@execute
                }
            update { copy(selfTest = outcome) }
            load()
        }

    private fun step(what: String) {
        if (closing) throw CancellationException("closed")
        update { copy(selfTest = SelfTestState.Running(what)) }
    }

    /** Closes the model, and ends a self-test at its next step; nothing is loaded before the next [resume]. */
    fun close() {
        closing = true
        worker.execute { unload() }
    }

    private fun load() {
        unload()
        if (closing) return
        embedding = null
        val bundles = folder()?.listFiles { file -> file.isDirectory && !file.name.startsWith(".") }?.map { it.name }?.sorted().orEmpty()
        val name = settings["bundle"].takeIf { it in bundles } ?: bundles.firstOrNull()
        val wanted = Compute.entries.firstOrNull { it.name == settings["compute"] } ?: Compute.GPU_FP16
        update {
            copy(bundles = bundles, bundle = name, files = emptyList(), file = null, wanted = wanted, top = emptyList(), timing = null)
                .copy(labels = emptyList(), labelsOff = emptySet(), labelsProblem = null, synthetic = false)
                .copy(selfTest = if (name == bundle) selfTest else SelfTestState.Idle)
        }
        if (name == null) return update { copy(model = ModelState.NoBundle(INSTALL)) }
        update { copy(model = ModelState.Loading("Reading $name")) }
        val model = orSentence({ ModelState.Failed(it) }) { open(wanted) }
        update { copy(model = model) }
        val (now, kept) = loaded to photo
        if (now != null && kept != null) classify(now, kept)
    }

    private fun open(wanted: Compute): ModelState {
        val bundle = Bundle.open(chosenFolder())
        if (bundle.labels == null && bundle.text == null) {
            throw BundleException("${bundle.name} has no labels: make some with `pecore labels` and install it again")
        }
        val file = settings["file"]?.let(bundle::model) ?: bundle.models.first()
        update { copy(files = bundle.models.map { it.name }, file = file.name, synthetic = bundle.weights.synthetic) }
        verifyOnce(file)
        update { copy(model = ModelState.Loading("Loading ${file.name} for the ${wanted.title}; the first time takes longest")) }
        val opened = openEncoder(bundle, file, wanted)
        val model = LoadedBundle(bundle, opened.encoder, ::verifyOnce).also { loaded = it }
        label(model)
        return ModelState.Ready(opened.encoder.compute, opened.refusal)
    }

    /** A model's checksum takes seconds, so it is taken once for every file that has been installed. */
    private fun verifyOnce(file: ListedFile) {
        val stamp = "${file.sha256} ${file.file.length()} ${file.file.lastModified()}"
        val key = "verified ${file.file.path}"
        if (settings[key] == stamp) return
        val before = state.model
        file.verify { share -> update { copy(model = ModelState.Loading("Checking ${file.name}: ${(share * 100).toInt()} %")) } }
        update { copy(model = before) }
        settings[key] = stamp
    }

    private fun chosenFolder(): File = File(folder(), state.bundle ?: throw BundleException("there is no bundle on this phone"))

    private fun unload() {
        loaded?.close()
        loaded = null
        classifier = null
        latencies.reset()
    }

    private fun classify(model: LoadedBundle, pixels: Pixels) {
        val problem =
            try {
                val input = model.prepare(pixels)
                val start = nanos()
                embedding = model.encoder.encode(input)
                val end = nanos()
                latencies.add(start, end)
                val perSecond = if (state.input == Input.CAMERA) latencies.perSecond(end) else null
                update { copy(timing = Timing(latencies.last, latencies.median, latencies.recent, perSecond), inputProblem = null) }
                rank()
                null
            } catch (e: LiteRtException) {
                "The model stopped on the ${model.encoder.compute.title}: ${e.message}"
            } catch (e: EncoderException) {
                // For an output that is not the manifest's.
                e.message
            } catch (e: IllegalArgumentException) {
                // Classifier's, for an embedding of NaN: a GPU that overflows.
                e.message
            }
        if (problem != null) {
            embedding = null
            update { copy(inputProblem = problem, top = emptyList()) }
        }
    }

    private fun rank() {
        val vector = embedding ?: return
        val classifier = classifier ?: return update { copy(top = emptyList()) }
        val off = state.labelsOff
        val active = BooleanArray(classifier.labels.names.size) { it !in off }
        val top = classifier.classify(vector, active = active).map { Guess(it.label, it.probability) }
        update { copy(top = top) }
    }

    private fun <T> orSentence(failed: (String) -> T, block: () -> T): T =
        try {
            block()
        } catch (e: BundleException) {
            failed(e.message.orEmpty())
        } catch (e: EncoderException) {
            failed(e.message.orEmpty())
        }

    private fun update(change: UiState.() -> UiState) = store.update(change)

    private companion object {
        const val OWN = "own labels"
        const val INSTALL = "android_demo/install_bundle.sh out/pe_core_base_224"
    }
}

private fun line(gate: DeviceGate): GateLine {
    val title = Compute.entries.first { it.kind == gate.kind }.title
    val run = gate.run ?: return GateLine(title, gate.subject, gate.outcome.id, gate.detail, emptyList())
    val figures =
        listOf(
            "correlation" to "%.7f".format(Locale.ROOT, run.figures.correlation),
            "cosine" to "%.7f".format(Locale.ROOT, run.figures.cosine),
            "max |diff|" to "%.1e".format(Locale.ROOT, run.figures.maxAbsDiff),
            "norm error" to "%.1e".format(Locale.ROOT, run.figures.normError),
            "latency" to "%.1f ms, median of %d".format(Locale.ROOT, run.latency.median, run.latency.runs),
        )
    return GateLine(title, gate.subject, gate.outcome.id, if (gate.outcome.id == "passed") "" else gate.detail, figures)
}
