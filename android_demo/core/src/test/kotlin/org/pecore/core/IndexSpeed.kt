package org.pecore.core

import java.io.File
import java.util.Random

private const val ROWS = 100_000
private const val DIM = 512
private const val SEARCHES = 60
private const val COUNTED = 45 // the others are for the compiler

/** Prints what a search of 100,000 x 512 made-up rows takes; docs/android.md has the command. */
fun main() {
    val file = File.createTempFile("photos", ".index").apply { delete() }
    val random = Random(0)

    fun row() = FloatArray(DIM) { random.nextGaussian().toFloat() }
    try {
        PhotoIndex(file, "speed", DIM).use { index ->
            repeat(ROWS) { index.put(Photo(it.toLong(), 1, 1), row()) }
            val took =
                List(SEARCHES) {
                    val query = row()
                    val before = System.nanoTime()
                    index.search(query, 100)
                    (System.nanoTime() - before) / 1e6
                }.takeLast(COUNTED)
            val cores = Runtime.getRuntime().availableProcessors()
            println("median %.1f ms, best %.1f, on %d cores".format(took.sorted()[COUNTED / 2], took.min(), cores))
        }
    } finally {
        file.delete()
    }
}
