"""The child process of `pecore.validate.gpu`: one model, one compile, any number of inputs, then out.

    python -m pecore.validate.gpu_child FOLDER PARENT_PID

reads `request.json` (`model`, `compute`) and `input_0.npz`, ... from FOLDER, and writes `output_0.npz`, ... and
`result.json`. The result is rewritten after every step, so that the parent knows how far a child came that died.
"""

import ctypes
import json
import mmap
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays. The names go in as data: a tensor's name need not be a good file name."""
    np.savez(path, *arrays.values(), names=np.array(list(arrays), dtype=np.str_))


def load_arrays(path: Path) -> Arrays:
    """Read what `save_arrays` wrote."""
    with np.load(path) as archive:
        return {str(name): archive[f"arr_{i}"] for i, name in enumerate(archive["names"])}


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


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, however the parent went (Linux only)."""
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before the line above
        os._exit(1)


def count_ops(model: Path) -> int:
    """Number of ops in the main graph of a `.tflite`."""
    from ai_edge_litert import schema_py_generated as schema

    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return schema.Model.GetRootAs(data, 0).Subgraphs(0).OperatorsLength()


def noise(specs: dict[str, Any]) -> Arrays:
    """One input for a run that is only asked whether it runs: seeded noise in [-1, 1), zeros for integers."""
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-1, 1, spec.shape).astype(spec.dtype) for name, spec in specs.items()}


def main() -> None:
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    request = json.loads((folder / "request.json").read_text())
    model_path = Path(request["model"])
    result: dict[str, Any] = {}

    def report(**fields: Any) -> None:
        result.update(fields)
        fresh = folder / "result.json.new"
        fresh.write_text(json.dumps(result))
        fresh.rename(folder / "result.json")

    report(stage="looking for Vulkan drivers")
    report(drivers=vulkan_drivers(), stage="reading the model")
    from pecore.errors import InputError
    from pecore.runtime import check_inputs, check_model_file, open_model

    try:
        check_model_file(model_path)
    except InputError as error:
        report(input_error=str(error))
        return
    report(ops=count_ops(model_path), stage="compiling")
    start = time.perf_counter()
    try:
        model = open_model(model_path, backend="gpu", compute=request["compute"])
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
        outputs = model.run(arrays)
        run_s.append(time.perf_counter() - start)
        save_arrays(folder / f"output_{i}.npz", outputs)
    report(run_s=run_s, stage="done")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is on disk; a driver that crashes while it is torn down must not look like a failed run
