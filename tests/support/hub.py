"""What huggingface_hub asks of Hugging Face, answered on loopback from one folder."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

COMMIT = "c0ffee" * 6 + "c0ff"


@contextmanager
def open_hub(
    repository: str, folder: Path, *, cut: Mapping[str, int] | None = None
) -> Iterator[str]:
    """Serve the files of ``folder`` as ``repository``; yield what HF_ENDPOINT is set to.

    Of the files in ``cut`` the connection breaks off after so many bytes, every time.
    """

    files = [file for file in sorted(folder.iterdir()) if file.is_file()]

    def _describe(what: str) -> object:
        if what == "tree":
            return [
                {
                    "type": "file",
                    "path": file.name,
                    "size": file.stat().st_size,
                    "oid": hashlib.sha256(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
        siblings = [{"rfilename": file.name} for file in files]
        return {"id": repository, "sha": COMMIT, "siblings": siblings}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def _answer(self, *, has_body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{repository}/"):
                body = json.dumps(_describe(path.split("/")[5])).encode()
                self._send(200, body, "application/json", has_body=has_body)
                return
            file = folder / path.rpartition("/")[2]
            if path.startswith(f"/{repository}/resolve/") and file.is_file():
                self._send(200, file.read_bytes(), "application/octet-stream", has_body=has_body)
                return
            self._send(404, b"", "text/plain", has_body=has_body)

        def _send(self, status: int, body: bytes, kind: str, *, has_body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if has_body:
                sent = (cut or {}).get(self.path.rpartition("/")[2])
                self.wfile.write(body[:sent])
                self.close_connection = sent is not None

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
