package org.pecore.demo

import org.pecore.core.OwnLabels
import org.pecore.demo.model.Compute

/**
 * All that is on screen, apart from the picture itself. Immutable: a controller makes a new one for every change.
 *
 * [labels] are those that compete: the bundle's, where it has some ([bundleLabels]), or, with [ownChosen], a person's [own].
 */
data class UiState(
    val screen: Screen = Screen.CLASSIFY,
    val bundles: List<String> = emptyList(),
    val files: List<String> = emptyList(),
    val bundle: String? = null,
    val file: String? = null,
    val synthetic: Boolean = false,
    val wanted: Compute = Compute.GPU_FP16,
    val model: ModelState = ModelState.Loading("Looking for bundles"),
    val input: Input = Input.NONE,
    val inputProblem: String? = null,
    val top: List<Guess> = emptyList(),
    val timing: Timing? = null,
    val labels: List<String> = emptyList(),
    val labelsOff: Set<Int> = emptySet(),
    val bundleLabels: Boolean = true,
    val own: OwnLabels = OwnLabels(),
    val ownChosen: Boolean = false,
    val labelsBusy: Boolean = false,
    val labelsProblem: String? = null,
    val search: SearchState = SearchState(),
    val selfTest: SelfTestState = SelfTestState.Idle,
) {
    val labelsOn: Int get() = labels.size - labelsOff.size
}

enum class Screen { CLASSIFY, SEARCH, LABELS, SELF_TEST }

enum class Input { NONE, PHOTO, CAMERA }

/** One bar: [share] is the softmax over the labels that are switched on. */
data class Guess(val label: String, val share: Double)

/** Milliseconds of write, run and read together, the median of the last [runs]; [perSecond] are the camera frames that are classified, null for a photo. */
data class Timing(val lastMs: Double, val medianMs: Double, val runs: Int, val perSecond: Double?)

sealed interface ModelState {
    /** Nothing in the bundles folder; [command] is what to type on the computer. */
    data class NoBundle(val command: String) : ModelState

    data class Loading(val what: String) : ModelState

    /** The bundle can't be read or no backend takes the model. */
    data class Failed(val sentence: String) : ModelState

    /** [refusal]: why the GPU said no, where it was asked for and the CPU runs instead. */
    data class Ready(val runsOn: Compute, val refusal: String? = null) : ModelState
}

sealed interface SelfTestState {
    data object Idle : SelfTestState

    data class Running(val what: String) : SelfTestState

    data class Failed(val sentence: String) : SelfTestState

    data class Done(val passed: Boolean, val gates: List<GateLine>) : SelfTestState
}

/** One file on one backend. [figures] is what is shown, in order: name and value; empty where it was refused or skipped. */
data class GateLine(
    val backend: String,
    val file: String,
    val outcome: String,
    val detail: String,
    val figures: List<Pair<String, String>>,
)

/** What a person can do with models and labels. */
interface ModelActions {
    fun show(screen: Screen)

    fun chooseBundle(name: String)

    fun chooseFile(name: String)

    fun chooseCompute(compute: Compute)

    fun reload()

    fun setLabels(indices: Collection<Int>, on: Boolean)

    fun chooseLabels(own: Boolean)

    fun addLabel(name: String)

    fun renameLabel(name: String, to: String)

    /** [by] places further on in the list, or back where it is negative. */
    fun moveLabel(name: String, by: Int)

    fun removeLabel(name: String)

    fun setTemplate(template: String)

    fun runSelfTest()
}

/** And what needs the phone. */
interface Actions :
    ModelActions,
    SearchActions {
    fun pickPhoto()

    /** A picture to search with. */
    fun pickExample()

    fun askForPhotos()

    fun openSettings()

    fun indexNow()

    fun indexWhileCharging(on: Boolean)

    /** Shows a photograph in the phone's own gallery. */
    fun open(id: Long)

    fun startCamera()

    fun stopCamera()

    fun shareReport()

    fun copy(text: String)
}
