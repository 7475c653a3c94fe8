package org.pecore.core

/** A bundle that can't be used; [message] is one sentence for people, which names what is wrong and what to do. */
class BundleException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** What helps against every damaged file. */
internal const val REINSTALL = "install the bundle again with install_bundle.sh"
