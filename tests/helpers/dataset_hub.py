"""A Hugging Face Hub on this machine that has datasets: enough of its protocol to read them.

    GET  /api/datasets/ID[/revision/REV], /api/datasets/ID/tree/REV[/FOLDER]
    POST /api/datasets/ID/paths-info/REV
    HEAD, GET /datasets/ID/resolve/REV/FILE, with Range

A dataset is a dict of files. Its commit follows from them. A former commit has its former files;
any other revision is the newest.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class DatasetHub:
    """What the server has, and what it was asked for."""

    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By name, by path."""
    former: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by commit."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """METHOD PATH RANGE of every request."""
    refused: dict[str, int] = field(default_factory=dict)
    """Pattern -> how many next requests of a "METHOD PATH" get status 503."""
    cut: int = 0
    """So many next ranges of files break off in their middle."""
    closed: set[str] = field(default_factory=set)
    """Datasets that need a token which nobody has."""

    def commit(self, name: str) -> str:
        """Return the newest commit of a dataset."""
        return _commit(self.datasets[name])

    def change(self, name: str, path: str, data: bytes) -> None:
        """Make a new commit, in which a file is another."""
        self.former[self.commit(name)] = self.datasets[name]
        self.datasets[name] = self.datasets[name] | {path: data}

    def answer(self, method: str, target: str, span: str, body: bytes) -> tuple[int, Any, dict]:
        """Return status, content and headers of an answer."""
        parts = urlsplit(target)
        path = unquote(parts.path)
        self.asked.append(f"{method} {path} {span}".strip())
        for pattern, left in self.refused.items():
            if left and re.match(pattern, f"{method} {path}"):
                self.refused[pattern] -= 1
                return 503, {"error": "Not now"}, {}
        match = re.fullmatch(r"(/api)?/datasets/([^/]+/[^/]+)(?:/([a-z-]+)/([^/]+)/?(.*))?", path)
        if match is None or match[2] not in self.datasets:
            return _missing("RepoNotFound" if match else "EntryNotFound")
        if match[2] in self.closed:
            return 401, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"}
        files = self.former.get(match[4] or "", self.datasets[match[2]])
        commit = _commit(files)
        if not match[1]:
            return _file(files, match[5], commit, span)
        if match[3] == "tree":
            deep = parse_qs(parts.query).get("recursive", ["false"])[0].lower() == "true"
            found = _tree(files, match[5], deep=deep)
            return (200, found, {}) if found or not match[5] else _missing("EntryNotFound")
        if match[3] == "paths-info":
            wanted = json.loads(body)["paths"]
            return 200, [_entry(one, files[one]) for one in wanted if one in files], {}
        siblings = [{"rfilename": one} for one in sorted(files)]
        facts = {"_id": "0", "id": match[2], "sha": commit, "private": False, "tags": []}
        return 200, facts | {"siblings": siblings}, {}


def _commit(files: dict[str, bytes]) -> str:
    content = [(path, _oid(data)) for path, data in sorted(files.items())]
    return hashlib.sha1(json.dumps(content).encode()).hexdigest()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _missing(code: str) -> tuple[int, Any, dict]:
    return 404, {"error": "Not found"}, {"X-Error-Code": code, "X-Error-Message": "Not found"}


def _entry(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "oid": _oid(data), "size": len(data)}


def _tree(files: dict[str, bytes], folder: str, *, deep: bool) -> list[dict[str, object]]:
    start = f"{folder}/" if folder else ""
    found: dict[str, dict[str, object]] = {}
    for path, data in sorted(files.items()):
        if not path.startswith(start):
            continue
        first, inner, _ = path.removeprefix(start).partition("/")
        if inner:
            below = start + first
            found[below] = {"type": "directory", "path": below, "oid": "0" * 40, "size": 0}
        if deep or not inner:
            found[path] = _entry(path, data)
    return list(found.values())


def _file(files: dict[str, bytes], path: str, commit: str, span: str) -> tuple[int, Any, dict]:
    if path not in files:
        return _missing("EntryNotFound")
    data = files[path]
    headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", span):
        start, end = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return 206, data[start : end + 1], headers
    return 200, data, headers


@contextmanager
def serving_datasets(datasets: dict[str, dict[str, bytes]]) -> Iterator[DatasetHub]:
    """Serve datasets until the block ends."""
    hub = DatasetHub(datasets)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing on stderr."""

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            span = self.headers.get("Range", "")
            status, content, headers = hub.answer(self.command, self.path, span, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if status == 206 and hub.cut:
                hub.cut -= 1
                data = data[: len(data) // 2]
                self.close_connection = True
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_any  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
