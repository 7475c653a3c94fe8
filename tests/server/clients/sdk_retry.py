"""inference-sdk sends an image again after a 503: python sdk_retry.py ADDRESS PHOTO

Between the server and the SDK stands a proxy that hands out the server's own answer for a full queue the first time.
"""

import http.server
import sys
import threading
import urllib.request
from typing import Any

from inference_sdk import InferenceHTTPClient

address, photo = sys.argv[1:3]
BUSY = b'{"message":"busy: try again in a second","error":{"message":"busy","type":"server_error","code":"busy"}}'
seen: list[str] = []


class Proxy(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seen.append(self.path)
        if len(seen) == 1:
            status, content = 503, BUSY
        else:
            request = urllib.request.Request(
                address.rstrip("/") + self.path, body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request) as answer:
                status, content = answer.status, answer.read()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    client = InferenceHTTPClient(api_url=f"http://127.0.0.1:{proxy.server_port}", api_key=None)
    assert len(client.get_perception_encoder_image_embeddings(photo)["embeddings"][0]) > 0
    proxy.shutdown()
assert len(seen) == 2, seen
