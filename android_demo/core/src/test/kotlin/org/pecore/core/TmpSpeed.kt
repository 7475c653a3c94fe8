package org.pecore.core

import java.io.File
import java.util.Random

fun main(args: Array<String>) {
    val file = File(args[0])
    val n = 100_000
    val dim = 512
    val random = Random(0)
    var t = System.nanoTime()
    file.delete()
    val index = PhotoIndex(file, "space", dim)
    repeat(n) { i -> index.put(Photo(i.toLong(), 1, 1), FloatArray(dim) { random.nextGaussian().toFloat() }) }
    println("write ${(System.nanoTime() - t) / 1e6} ms, ${file.length()} bytes")
    index.close()
    t = System.nanoTime()
    val again = PhotoIndex(file, "space", dim)
    println("open ${(System.nanoTime() - t) / 1e6} ms")
    val query = FloatArray(dim) { random.nextGaussian().toFloat() }
    val times = List(40) {
        t = System.nanoTime()
        again.search(query, 100)
        (System.nanoTime() - t) / 1e6
    }
    println("first ${times[0]}, median ${times.drop(10).sorted()[15]} ms, all $times")
    again.close()
    file.delete()
}
