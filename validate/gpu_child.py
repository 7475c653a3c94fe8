"""The child process of `pecore.validate.gpu`: one model, one compile, any number of inputs, then out.

    python -m pecore.validate.gpu_child FOLDER PARENT_PID

reads `request.json` (`model`, `compute`) and `input_0.npz`, ... from FOLDER, and writes `output_0.npz`, ... and
`result.json`. The result is rewritten after every step, so that the parent knows how far a child came that died.
"""

import ctypes
import json
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pecore.validate.child import Arrays, die_with_parent, load_arrays, reporter, save_arrays


def vulkan_drivers() -> dict[str, str]:
    """Device name -> driver (`llvmpipe, Mesa 25.0.7-2 (LLVM 15.0.6)`) of every Vulkan device, {} without a loader.

    Neither the delegate's log nor its API names the driver's version, and a figure can't be reproduced without it.
    The structures are those of Vulkan 1.2: VkPhysicalDeviceProperties2 chained to VkPhysicalDeviceDriverProperties.
    """
    try:
        vulkan = ctypes.CDLL("libvulkan.so.1")
    except OSError:
        return {}
    application = ctypes.create_string_buffer(48)  # VkApplicationInfo: sType 0, apiVersion 1.2 as its last field
    ctypes.c_uint32.from_buffer(application, 44).value = 1 << 22 | 2 << 12
    create_info = ctypes.create_string_buffer(64)  # VkInstanceCreateInfo: sType 1, pApplicationInfo at 24
    ctypes.c_uint32.from_buffer(create_info).value = 1
    ctypes.c_void_p.from_buffer(create_info, 24).value = ctypes.addressof(application)
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(create_info, None, ctypes.byref(instance)) != 0:
        return {}
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    devices = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    found = {}
    for device in devices:
        driver = ctypes.create_string_buffer(536)  # sType, pNext, driverID, driverName[256] at 20, driverInfo[256]
        ctypes.c_uint32.from_buffer(driver).value = 1000196000
        properties = ctypes.create_string_buffer(1024)  # sType, pNext, then deviceName[256] at 16 + 20
        ctypes.c_uint32.from_buffer(properties).value = 1000059001
        ctypes.c_void_p.from_buffer(properties, 8).value = ctypes.addressof(driver)
        vulkan.vkGetPhysicalDeviceProperties2(ctypes.c_void_p(device), properties)
        name, driver_name, driver_info = (
            buffer.raw[at : at + 256].split(b"\0")[0].decode(errors="replace")
            for buffer, at in ((properties, 36), (driver, 20), (driver, 276))
        )
        found[name] = f"{driver_name}, {driver_info}"
    vulkan.vkDestroyInstance(instance, None)
    return found


def count_ops(path: Path, signature: str | None) -> int:
    """Number of ops in the graph of a signature, the first where None, of a `.tflite`."""
    from ai_edge_litert import schema_py_generated as schema

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model = schema.Model.GetRootAs(data, 0)
        signatures = [model.SignatureDefs(i) for i in range(model.SignatureDefsLength())]
        own = [s for s in signatures if signature is None or s.SignatureKey() == signature.encode()]
        return model.Subgraphs(own[0].SubgraphIndex() if own else 0).OperatorsLength()


def noise(specs: dict[str, Any]) -> Arrays:
    """Seeded input for a graph of which nothing is known: floats in [-1, 1]; the whole range of integers that stand for
    real values (quantized ones, and bytes, which are pixels); booleans of both kinds; zeros for other integers, which
    are indices or lengths mostly. Where an input looks like an image its noise is as smooth as one: white noise drives
    a network out of the range that it was quantized for.

    Raises:
        InputError: an input takes no numbers.
    """
    return {name: _noise(name, spec, np.random.default_rng(seed)) for seed, (name, spec) in enumerate(specs.items())}


def _noise(name: str, spec: Any, rng: np.random.Generator) -> np.ndarray:
    if spec.dtype.kind == "b":
        return rng.random(spec.shape) < 0.5
    if spec.dtype.kind in "iu" and spec.scale is None and spec.dtype != np.uint8:
        return np.zeros(spec.shape, spec.dtype)
    if spec.dtype.kind in "iufc":
        drawn = _smooth(spec.shape, rng) if _image_axes(spec.shape) else rng.uniform(-1, 1, spec.shape)
        if spec.dtype.kind in "fc":
            return drawn.astype(spec.dtype)
        limits = np.iinfo(spec.dtype)
        return np.round(limits.min + (drawn + 1) / 2 * (float(limits.max) - limits.min)).astype(spec.dtype)
    from pecore.errors import InputError

    raise InputError(f"input {name!r} takes {spec.dtype}, which can't be made up; give --reference FILE.npz")


def _image_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of what looks like images, NHWC or NCHW; None of anything else."""
    if len(shape) != 4:
        return None
    return (1, 2) if shape[3] in (1, 3, 4) else (2, 3) if shape[1] in (1, 3, 4) else None


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise in [-1, 1] with a photograph's spectrum, the amplitude falling as 1 / frequency."""
    axes = _image_axes(shape)
    assert axes is not None
    spectrum = np.fft.fft2(rng.standard_normal(shape), axes=axes)
    y, x = np.meshgrid(*(np.fft.fftfreq(shape[a]) for a in axes), indexing="ij")
    falling = 1 / np.maximum(np.hypot(y, x), 1 / max(shape[a] for a in axes))
    where = [shape[a] if a in axes else 1 for a in range(4)]
    image = np.fft.ifft2(spectrum * falling.reshape(where), axes=axes).real
    low, high = image.min(), image.max()
    return 2 * (image - low) / (high - low or 1.0) - 1


def main() -> None:
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    request = json.loads((folder / "request.json").read_text())
    model_path = Path(request["model"])
    report = reporter(folder / "result.json")
    report(stage="looking for Vulkan drivers")
    report(drivers=vulkan_drivers(), stage="reading the model")
    from pecore.errors import InputError
    from pecore.runtime import check_inputs, check_model_file, open_model

    try:
        check_model_file(model_path)
    except InputError as error:
        report(input_error=str(error))
        return
    signature = request["signature"]
    report(ops=count_ops(model_path, signature), stage="compiling")
    start = time.perf_counter()
    try:
        model = open_model(model_path, backend="gpu", compute=request["compute"], signature=signature)
    except InputError as error:
        report(refused=str(error))
        return
    report(compile_s=time.perf_counter() - start, stage="reading the inputs")
    inputs = [load_arrays(folder / f"input_{i}.npz") for i in range(request["inputs"])] or [noise(model.inputs)]
    try:
        for arrays in inputs:
            check_inputs(model_path, model.inputs, arrays)
    except InputError as error:
        report(input_error=str(error))
        return
    run_s: list[float] = []
    for i, arrays in enumerate(inputs):
        report(run_s=run_s, stage=f"running input {i + 1} of {len(inputs)}")
        start = time.perf_counter()
        try:
            outputs = model.run(arrays)
        except (RuntimeError, ValueError) as error:  # ValueError: a dtype that LiteRT's buffers don't take
            print(error, file=sys.stderr)
            report(failed=" ".join(str(error).split()))
            return
        run_s.append(time.perf_counter() - start)
        save_arrays(folder / f"output_{i}.npz", outputs)
    report(run_s=run_s, stage="done")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is on disk; a driver that crashes while it is torn down must not look like a failed run
