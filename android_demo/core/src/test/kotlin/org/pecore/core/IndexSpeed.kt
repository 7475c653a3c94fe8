package org.pecore.core

import java.io.File
import java.lang.management.ManagementFactory
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
            val threads = ManagementFactory.getThreadMXBean()
            val (clock, processor) =
                List(SEARCHES) {
                    val before = System.nanoTime() to threads.currentThreadCpuTime
                    index.search(row(), 100)
                    (System.nanoTime() - before.first) / 1e6 to (threads.currentThreadCpuTime - before.second) / 1e6
                }.takeLast(COUNTED).unzip()
            println("by the clock: median %.1f ms, best %.1f".format(clock.sorted()[COUNTED / 2], clock.min()))
            println("of the processor: median %.1f ms, best %.1f".format(processor.sorted()[COUNTED / 2], processor.min()))
        }
    } finally {
        file.delete()
    }
}
