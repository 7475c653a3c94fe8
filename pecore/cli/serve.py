"""pecore serve"""

import json
import webbrowser
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pecore.cli.inputs import (
    BackendOption,
    ComputeOption,
    EncoderChoice,
    LabelsOption,
    ThreadsOption,
    WeightsOption,
    notes,
    open_encoder,
)
from pecore.cli.options import at_least_one
from pecore.console import progress, show
from pecore.errors import InputError

if TYPE_CHECKING:
    from pecore.server.options import ServerOptions
    from pecore.server.service import Service

EXAMPLE = "pecore serve out/pe_core_base_224 --open"


def serve(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to serve; the only one in out/ by default.")] = None,
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.")] = 9001,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than this machine's needs --api-key.")
    ] = "127.0.0.1",
    api_key: Annotated[
        str | None, typer.Option(envvar="PECORE_API_KEY", help="Demand this key; the page is not served then.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Another site whose pages may ask (CORS); repeatable.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Index that `pecore embed` wrote, for /v1/search.")] = None,
    clip_alias: Annotated[
        bool, typer.Option("--clip-alias", help="Answer /clip/* as well, for inference-sdk.")
    ] = False,
    max_batch: Annotated[int, typer.Option(callback=at_least_one, help="Images or texts in one request.")] = 8,
    queue: Annotated[int, typer.Option(callback=at_least_one, help="Images and texts that may wait; 503 beyond.")] = 64,
    weights: WeightsOption = None,
    backend: BackendOption = "cpu",
    compute: ComputeOption = "fp16",
    threads: ThreadsOption = None,
    labels: LabelsOption = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for every answer.")] = False,
) -> None:
    """Serve a bundle over HTTP: Roboflow's and OpenAI's embedding APIs, search, classification, and the web page."""
    from pecore.bundle import only_bundle, open_bundle
    from pecore.server.app import create_app
    from pecore.server.options import Limits, ServerOptions
    from pecore.server.page import LiteRtJs
    from pecore.server.run import address_of, is_loopback, make_server, open_socket, run

    loopback = is_loopback(host)
    _check_options(loopback, host, api_key, open_browser)
    limits = Limits(batch=max_batch, queue=queue)
    options = ServerOptions(loopback, api_key, tuple(allow_origin or ()), clip_alias, limits)
    folder = (open_bundle(bundle) if bundle else only_bundle(option="")).folder
    choice = EncoderChoice(folder, backend, weights, compute, threads, labels)
    with open_socket(host, port) as bound:
        service = _open_service(choice, options, index)
        runtime = LiteRtJs() if api_key is None else None
        if open_browser and runtime:
            with progress() as log:
                runtime.folder(log)
        app = create_app(service, options, runtime, _print_json if as_json else None)
        tell = partial(_tell, service, address_of(bound), runtime is not None, open_browser, as_json)
        run(make_server(app, tell), bound)
    if not as_json:
        show("Ended.")


def _tell(service: "Service", address: str, page: bool, open_browser: bool, as_json: bool) -> None:
    """What is said when requests are answered."""
    bundle = service.bundle
    if as_json:
        about = {"model": service.model_id, "synthetic_weights": bundle.synthetic}
        _print_json({"event": "listening", "address": address, **about})
    else:
        show(f"{service.model_id} is at {address}  (from {bundle.folder}; Ctrl+C ends)")
        show(*([f"The page is there too, and its self-test at {address}?selftest"] * page), *notes(bundle))
    if open_browser:
        webbrowser.open(address)


def _print_json(line: dict[str, Any]) -> None:
    with suppress(OSError):  # nobody reads the log any more: the answers go on
        print(json.dumps(line), flush=True)


def _check_options(loopback: bool, host: str, api_key: str | None, open_browser: bool) -> None:
    if not loopback and not api_key:
        raise InputError(f"--host {host} lets other machines ask: give a key with --api-key, or leave --host out")
    if api_key is not None and (not api_key.strip() or not api_key.isascii()):
        raise InputError("--api-key is empty or not ASCII: give one of letters and digits")
    if api_key is not None and open_browser:
        raise InputError("--open shows the page, which is not served with --api-key: leave one of them out")


def _open_service(choice: EncoderChoice, options: "ServerOptions", index: Path | None) -> "Service":
    from pecore.bundle import check_same_space
    from pecore.index import open_index
    from pecore.server.service import Service

    searched = open_index(index) if index else None
    encoder = open_encoder(choice)
    if searched:
        check_same_space(searched.space, encoder.bundle, str(index))
    embeds = encoder.bundle.vision.output.name == "embedding"
    labels = encoder.labels if embeds and (choice.labels or encoder.bundle.manifest.labels) else None
    return Service(encoder, options.limits, labels=labels, index=searched)
