"""`pecore serve` under load, against the bare encoder in the same run.

python -m benchmarks.serve out/pe_core_base_224

Sixteen clients send photographs for two minutes, each waiting for its answer, and every answer is compared with the
encoder's; meanwhile two hundred bad requests of twenty kinds are sent. The bare encoder decodes and embeds the same
files in a loop of its own before and after.
"""

import argparse
import base64
import http.client
import io
import json
import os
import pickle
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pecore.encoder import PerceptionEncoder

SAME = 1e-6
PATH = "/perception_encoder/embed_image"
BAD_REQUESTS = 200
SETTLED = 30.0
"""Seconds after which the server's memory is to be flat."""


def photographs() -> list[bytes]:
    """JPEG files of 512 x 512 and about."""
    from skimage import data

    out = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        for turned in (0, 180):
            buffer = io.BytesIO()
            Image.fromarray(getattr(data, name)()).rotate(turned).save(buffer, "JPEG", quality=90)
            out.append(buffer.getvalue())
    return out


def bad_requests() -> list[tuple[str, bytes, dict[str, str], int]]:
    """Twenty kinds: path, body, headers, and the status that is to come."""
    png = io.BytesIO()
    Image.new("L", (12000, 12000)).save(png, "PNG")
    encode = lambda data: base64.b64encode(data).decode()  # noqa: E731

    def image(value: Any, kind: str = "base64") -> bytes:
        return json.dumps({"image": {"type": kind, "value": value}}).encode()

    return [
        (PATH, b"", {}, 400),
        (PATH, b"{", {}, 400),
        (PATH, b"\xff\xfe\xfd", {}, 400),
        (PATH, b"[" * 100_000, {}, 400),
        (PATH, b"[1, 2]", {}, 422),
        (PATH, b"{}", {}, 422),
        (PATH, image("/etc/passwd"), {}, 400),
        (PATH, image("http://127.0.0.1/", "url"), {}, 422),
        (PATH, image(encode(pickle.dumps([1])), "numpy"), {}, 422),
        (PATH, image(encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")), {}, 400),
        (PATH, image(encode(photographs()[0][:5000])), {}, 400),
        (PATH, image(encode(png.getvalue())), {}, 400),
        (PATH, json.dumps({"image": [{"type": "base64", "value": "AA=="}] * 9}).encode(), {}, 400),
        ("/perception_encoder/embed_text", b'{"text": "\\ud800"}', {}, 400),
        ("/perception_encoder/embed_text", json.dumps({"text": "a" * 100_000}).encode(), {}, 422),
        ("/v1/embeddings", b'{"input": [[1, 2, 3]]}', {}, 422),
        ("/v1/embeddings", b'{"input": "a", "model": "gpt-4"}', {}, 404),
        ("/nothing", b"{}", {}, 404),
        (PATH, b"{}", {"Host": "evil.example"}, 403),
        (PATH, b"{}", {"Origin": "https://evil.example"}, 403),
    ]


@dataclass
class Tally:
    """What the clients saw."""

    right: int = 0
    busy: int = 0
    wrong: list[str] = field(default_factory=list)
    bad: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def bare(encoder: PerceptionEncoder, files: list[bytes], seconds: float) -> float:
    """Images a second of the encoder alone."""
    started, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        encoder.embed_image(Image.open(io.BytesIO(files[done % len(files)])))
        done += 1
    return done / passed


def ask(port: int, bodies: list[bytes], wanted: np.ndarray, first: int, until: float, tally: Tally) -> None:
    """One client: an image after the other over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    number = first
    while time.monotonic() < until:
        which = number % len(bodies)
        started = time.perf_counter()
        try:
            connection.request("POST", PATH, bodies[which], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            with tally.lock:
                tally.wrong.append(repr(error))
            connection.close()
            continue
        taken = time.perf_counter() - started
        with tally.lock:
            if answer.status == 503:
                tally.busy += 1
            elif answer.status == 200 and np.abs(np.array(content["embeddings"][0]) - wanted[which]).max() <= SAME:
                tally.right += 1
                tally.seconds.append(taken)
            else:
                tally.wrong.append(f"{answer.status}: {str(content)[:200]}")
        number += 1


def misbehave(port: int, seconds: float, tally: Tally) -> None:
    """All the bad requests, spread over the time."""
    kinds = bad_requests()
    for number in range(BAD_REQUESTS):
        path, body, headers, status = kinds[number % len(kinds)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            found = answer.status
        except (OSError, http.client.HTTPException):
            found = 0
        connection.close()
        with tally.lock:
            tally.bad[found] += 1
            if found not in (status, 503):
                tally.wrong.append(f"bad request {number % len(kinds)}: {found}, not {status}")
        time.sleep(seconds / BAD_REQUESTS * 0.8)


def resident(pid: int) -> float:
    """A process's memory in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def start(bundle: Path) -> tuple[subprocess.Popen[str], int]:
    """A server on a free port."""
    command = [sys.executable, "-c", "from pecore.cli import main; main()", "serve", str(bundle), "--port", "0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
            return child, int(found[1])
    raise SystemExit("the server did not start")


def load(bundle: Path, files: list[bytes], wanted: np.ndarray, clients: int, seconds: float) -> dict[str, Any]:
    """The figures of one run under load."""
    child, port = start(bundle)
    bodies = [json.dumps({"image": {"type": "base64", "value": base64.b64encode(f).decode()}}).encode() for f in files]
    tally, until = Tally(), time.monotonic() + seconds
    threads = [
        threading.Thread(target=ask, args=(port, bodies, wanted, number, until, tally)) for number in range(clients)
    ]
    threads.append(threading.Thread(target=misbehave, args=(port, seconds, tally)))
    started, memory = time.monotonic(), []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - started, resident(child.pid)))
        time.sleep(1)
    passed = time.monotonic() - started
    child.send_signal(signal.SIGTERM)
    after = [mb for at, mb in memory if at >= min(SETTLED, seconds / 4)]
    third = max(1, len(after) // 3)
    return {
        "images_per_second": tally.right / passed,
        "right": tally.right,
        "busy": tally.busy,
        "wrong": tally.wrong[:5],
        "bad_requests": dict(tally.bad),
        "median_seconds": statistics.median(tally.seconds or [0]),
        "p95_seconds": float(np.quantile(tally.seconds or [0], 0.95)),
        "memory_mb": {"start": memory[0][1], "first_third": max(after[:third]), "last_third": max(after[-third:])},
        "exit_code": child.wait(timeout=60),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0)
    args = parser.parse_args()
    files = photographs()
    encoder = PerceptionEncoder(args.bundle)
    wanted = encoder.embed_image([Image.open(io.BytesIO(file)) for file in files])
    alone = [bare(encoder, files, args.seconds / 4)]
    figures = load(args.bundle, files, wanted, args.clients, args.seconds)
    alone.append(bare(encoder, files, args.seconds / 4))
    figures |= {"bare_before": alone[0], "bare_after": alone[1]}
    figures["ratio"] = figures["images_per_second"] / statistics.mean(alone)
    figures["load_average"] = os.getloadavg()
    print(json.dumps(figures, indent=2))
    if figures["wrong"] or figures["exit_code"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
