"""A model hub on this machine, which answers huggingface_hub as huggingface.co does for one public repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "a" * 40
NAME = "someone/learner"
REVISIONS = ("main", "v1", COMMIT)


class _Handler(BaseHTTPRequestHandler):
    """Files of a folder, at every revision that there is.

    Args:
        folder: what the repository holds.
    """

    def __init__(self, *arguments: Any, folder: Path) -> None:
        self._folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """The list of files, or a file."""
        body = self._found(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        else:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _found(self, path: str) -> bytes | None:
        names = [file.relative_to(self._folder).as_posix() for file in self._folder.rglob("*") if file.is_file()]
        for revision in REVISIONS:
            if path == f"/api/models/{NAME}/revision/{revision}":
                files = [{"rfilename": name} for name in names]
                return json.dumps({"id": NAME, "sha": COMMIT, "siblings": files}).encode()
            if path == f"/api/models/{NAME}/tree/{revision}":
                sizes = {name: (self._folder / name).stat().st_size for name in names}
                tree = [{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in sizes.items()]
                return json.dumps(tree).encode()
            name = path.removeprefix(f"/{NAME}/resolve/{revision}/")
            if name in names:
                return (self._folder / name).read_bytes()
        return None

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve a folder as the repository ``NAME`` within the block; gives the address for ``HF_ENDPOINT``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder=folder))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
