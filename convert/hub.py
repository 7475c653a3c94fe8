"""Files from the Hugging Face hub: one sentence for each way to fail, bytes shown on the way, and the bytes checked."""

from __future__ import annotations

import errno
import inspect
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pecore.errors import InputError

Log = Callable[[str], None]

SHA256 = re.compile(r"[0-9a-f]{64}")
EVERY = 5.0
"""Seconds between two lines about a download."""

NETWORK = frozenset({"ConnectionError", "TransportError", "RequestException", "TimeoutError", "gaierror", "SSLError"})
"""Classes of the errors that the several HTTP clients and Python raise where there is no connection."""


def fetch(repo: str, filename: str, log: Log = lambda line: None) -> Path:
    """Path of `filename` from a hub repository, downloaded unless it is in the cache.

    Honours HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the rest of huggingface_hub's settings. `log` is told
    how many bytes have come.

    Raises:
        InputError: it can't be fetched: for which of the reasons, and what to do about that one.
    """
    from huggingface_hub import hf_hub_download

    shown: dict[str, Any] = {"tqdm_class": _counter(filename, log)}
    if "tqdm_class" not in inspect.signature(hf_hub_download).parameters:  # an older client
        shown = {}
    try:
        return Path(hf_hub_download(repo, filename, **shown))
    except Exception as error:  # its errors and its HTTP client's share no base
        raise InputError(
            f"{filename} of {repo} could not be fetched from the hub: {_reason(error, repo, filename)}, or pass a "
            "local file with --checkpoint FILE, or try the conversion with --weights synthetic"
        ) from error


def check_bytes(path: Path, digest: str) -> None:
    """Refuse a cached file whose bytes are not those that the hub means: wrong ones of the right length pass every
    check of the client's. The cache names a large file's bytes by the ETag that came with them, their sha256.

    Args:
        path: as `fetch` returned it. digest: its sha256, which is computed for the manifest anyway.

    Raises:
        InputError: they differ.
    """
    named = path.resolve().name
    if SHA256.fullmatch(named) and named != digest:
        raise InputError(
            f"{path.name} in the hub's cache is not the file that the hub names (sha256 {digest[:12]}... instead of "
            f"{named[:12]}...): delete {path.resolve()} and try again"
        )


def _reason(error: BaseException, repo: str, filename: str) -> str:
    """What went wrong, and what to do about it, from an error of the hub's client and those that caused it."""
    from huggingface_hub import constants

    chain = list(_causes(error))
    names = {kind.__name__ for e in chain for kind in type(e).__mro__}
    if answered := next((e for e in chain if isinstance(_status(e), int)), None):
        return _answered(answered, repo, filename, constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or "OfflineModeIsEnabled" in names:
        return "it is not in the cache, and HF_HUB_OFFLINE forbids to download it; unset HF_HUB_OFFLINE"
    numbers = {e.errno: e for e in chain if isinstance(e, OSError)}
    if numbers.keys() & {errno.ENOSPC, errno.EDQUOT}:
        return "the disk with the hub's cache is full; free some space, or set HF_HOME to a folder on another disk"
    if denied := numbers.get(errno.EACCES) or numbers.get(errno.EROFS):
        return f"{denied.filename or 'the cache'} can't be written; set HF_HOME to a folder of your own"
    if "FileMetadataError" in names:
        return f"what answers at {constants.ENDPOINT} is no hub; check HF_ENDPOINT and the proxy"
    if names & NETWORK:
        return f"there is no connection to {constants.ENDPOINT} ({type(chain[-1]).__name__}); check the network"
    return f"{type(error).__name__}; try again, check the network and HF_HUB_OFFLINE"


def _answered(error: BaseException, repo: str, filename: str, endpoint: str) -> str:
    """What the status means that the hub answered with, and what to do about it."""
    status = _status(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if status in (401, 403):
        missing = (
            "; a repository that does not exist is answered the same"
            if status == 401 and "GatedRepoError" not in names
            else ""
        )
        return (
            f"the hub answered {status}, it wants to know who asks; log in (hf auth login, or HF_TOKEN) and accept the "
            f"terms at {endpoint}/{repo}{missing}"
        )
    if status == 404:
        what = f"no {filename} in {repo}" if "EntryNotFoundError" in names else f"no repository {repo}"
        return f"the hub at {endpoint} has {what} (404); check HF_ENDPOINT"
    if status == 429:
        return "the hub answered 429, too many requests from here; try again in some minutes"
    if status >= 500:
        return f"the hub answered {status}, it is out of order; try again later"
    return f"the hub answered {status}; check HF_ENDPOINT and HF_TOKEN"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> Any:
    """What the hub answered with, where the error comes from an answer; else None."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _counter(filename: str, log: Log) -> type:
    """A progress bar, as the hub's client wants one, that is lines for `log`."""
    from tqdm import tqdm

    class Counter(tqdm):
        monitor_interval = 0  # no thread of its own

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False, "mininterval": EVERY})

        def display(self, *_: Any, **__: Any) -> None:
            of = f" of {self.total / 1e6:.0f}" if self.total else ""
            log(f"downloading {filename}: {self.n / 1e6:.0f}{of} MB")

    return Counter
