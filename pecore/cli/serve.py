"""pecore serve"""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pecore.console import progress, show

EXAMPLE = "pecore serve out/pe_core_base_224 --open"


def serve(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to show; the only one in out/ by default.")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 for any free one.")] = 8008,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show a bundle in the browser: a page that runs it there, with WebGPU or WASM."""
    from pecore.bundle import only_bundle, open_bundle
    from pecore.server.page import ADDRESS, find_site, make_server

    shown = open_bundle(bundle) if bundle else only_bundle(option="")
    shown.file()
    with progress() as log:
        site = find_site(log)
    with make_server(site, shown.folder, port) as server:
        address = f"http://{ADDRESS}:{server.server_port}/"
        show(f"{shown.folder} is at {address}  (self-test: {address}?selftest; Ctrl+C ends)")
        if open_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            show("Ended.")
