package androidx.activity.result.contract

import android.net.Uri
import androidx.activity.result.PickVisualMediaRequest

abstract class ActivityResultContract<I, O>

class ActivityResultContracts private constructor() {
    class PickVisualMedia : ActivityResultContract<PickVisualMediaRequest, Uri?>() {
        sealed interface VisualMediaType

        object ImageOnly : VisualMediaType
    }

    class RequestMultiplePermissions : ActivityResultContract<Array<String>, Map<String, Boolean>>()

    class RequestPermission : ActivityResultContract<String, Boolean>()
}
