"""A web server of a folder that answers Range requests, and fails when a test says so."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class FileServer:
    """What the server does, and what it was asked for."""

    folder: Path
    url: str = ""
    cut: int = 0
    """So many next answers break off in their middle."""
    short: int = 0
    """So many next answers are half of what was asked for, and well formed."""
    status: int = 0
    """Answer ranges with this status."""
    busy: int = 0
    """So many next ranges are answered with status 429."""
    retry_after: str = ""
    """What these answers say in Retry-After."""
    moved: dict[str, str] = field(default_factory=dict)
    """Path -> path to which it is redirected."""
    ranges: bool = True
    """Whether ranges are answered; else all of the file is sent."""
    hidden: str = ""
    """Answer this path with status 403."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(path, range) of each GET of a file."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, name: str) -> bool:
        """Return whether the next answer fails in a way."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(left - 1, 0))
            return left > 0


def _handler(server: FileServer) -> type[SimpleHTTPRequestHandler]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(server.folder))  # pyright: ignore

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_HEAD(self) -> None:
            self.path = server.moved.get(self.path, self.path)
            super().do_HEAD()

        def do_GET(self) -> None:
            if self.path == server.hidden:
                self.send_error(403)
                return
            if self.path in server.moved:
                self.send_response(302)
                self.send_header("Location", server.url + server.moved[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked = self.headers.get("Range", "")
            path = Path(self.translate_path(self.path))
            if not path.is_file() or not asked:
                super().do_GET()
                return
            server.asked.append((self.path, asked))
            if server.status:
                self.send_error(server.status)
                return
            if server.take("busy"):
                self.send_response(429)
                self.send_header("Retry-After", server.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if not server.ranges:
                super().do_GET()
                return
            first, _, last = asked.removeprefix("bytes=").partition("-")
            data = path.read_bytes()[int(first) : int(last) + 1]
            if server.take("short"):
                data = data[: len(data) // 2]
            self.send_response(206)
            self.send_header("Content-Length", str(len(data)))
            end = int(first) + len(data) - 1
            self.send_header("Content-Range", f"bytes {first}-{end}/{path.stat().st_size}")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if server.take("cut") else data)

    return Handler


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve a folder on this machine until the end of the block."""
    server = FileServer(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
