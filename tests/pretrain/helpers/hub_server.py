"""A Hugging Face Hub on this machine: enough of its protocol to push a model and load it back.

Writing   POST /api/repos/create, /api/validate-yaml
          POST /api/models/ID/preupload/REV      which files are large (LFS), which unchanged
          POST /ID.git/info/lfs/objects/batch    where to PUT large files; known ones have no action
          PUT  /lfs/SHA256
          POST /api/models/ID/commit/REV         one JSON a line: small files inline, large by hash
Reading   GET  /api/models/ID[/revision/REV][/tree/REV]
          HEAD, GET /ID/resolve/REV/FILE

A repository is a dict of files. A revision that is a former commit has that one's files; any other
revision is the newest.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_local"
LARGE = re.compile(r"\.(safetensors|model)$")


@dataclass(frozen=True)
class File:
    """A file of a repository."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """What the client compares to see whether a file has changed."""
        return self.sha256 if self.lfs else self.git_oid

    @property
    def git_oid(self) -> str:
        """The id that git gives to the file, or to the pointer that stands for a large one."""
        content = self.content
        if self.lfs:
            content = (
                "version https://git-lfs.github.com/spec/v1\n"
                f"oid sha256:{self.sha256}\nsize {len(self.content)}\n"
            ).encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """A model's repository."""

    private: bool = False
    files: dict[str, File] = field(default_factory=dict)
    commits: int = 0
    former: dict[str, dict[str, File]] = field(default_factory=dict)
    """Commit -> its files."""

    def replace_files(self, files: dict[str, File]) -> None:
        """Make a new commit of other files."""
        self.former[self.sha] = self.files
        self.files, self.commits = files, self.commits + 1

    def at(self, revision: str | None) -> tuple[str, dict[str, File]]:
        """Return the commit of a revision, and its files."""
        former = self.former.get(revision or "")
        return (self.sha, self.files) if former is None else (str(revision), former)

    @property
    def sha(self) -> str:
        names = sorted((path, file.git_oid) for path, file in self.files.items())
        return hashlib.sha1(json.dumps([self.commits, names]).encode()).hexdigest()


class RefusalError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str, message: str, **extra: str) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message, self.extra = status, code, message, extra


class HubServer(ThreadingHTTPServer):
    """Serves until the end of its ``with`` block."""

    daemon_threads = True

    def __init__(self, *, owners: tuple[str, ...] = ("tester",)) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.owners = owners
        """Who may own repositories; the token may write to the first only."""
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        """METHOD PATH of every request, in order of arrival."""
        self.hang_up_on: str | None = None
        """A pattern; requests whose "METHOD PATH" matches get a closed connection."""
        self.refuse: dict[str, int] = {}
        """Pattern -> status; requests whose "METHOD PATH" matches get that status."""
        self.refuse_first: dict[str, list[int]] = {}
        """Pattern -> statuses; the next requests whose "METHOD PATH" matches get one each."""
        self.refuse_as: dict[str, str] = {}
        """Pattern -> error code; requests whose "METHOD PATH" matches get 404 with that code."""
        self.then: dict[str, Callable[[], object]] = {}
        """Pattern -> what happens once, after the first answer to such a request."""
        self.lock = Lock()

    def __enter__(self) -> "HubServer":
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()

    def sent(self, pattern: str) -> list[str]:
        """Return the requests that a pattern matches from their beginning."""
        return [request for request in self.requests if re.match(pattern, request)]

    def repository(self, name: str) -> Repository:
        if name not in self.repositories:
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        return self.repositories[name]

    def create(self, asked: dict[str, Any]) -> dict[str, str]:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in self.owners:
            raise RefusalError(404, "NotFound", f"No user or organization {asked['organization']}")
        if asked["organization"] != self.owners[0]:
            raise RefusalError(
                403, "Forbidden", "You don't have the rights to create a model there"
            )
        if name in self.repositories:
            # The client reads "url" of this refusal where it was told that existing is fine.
            raise RefusalError(409, "Conflict", "You already created this repo", url=f"/{name}")
        self.repositories[name] = Repository(private=asked.get("visibility") == "private")
        return {"url": f"{self.url}/{name}", "id": name}

    def preupload(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        files = self.repository(name).files
        answers = []
        for wanted in asked["files"]:
            known = files.get(wanted["path"])
            answers.append(
                {
                    "path": wanted["path"],
                    "uploadMode": "lfs" if LARGE.search(wanted["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": known.oid if known else None,
                }
            )
        return {"files": answers}

    def lfs_batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for wanted in asked["objects"]:
            answer = dict(wanted)
            if wanted["oid"] not in self.large:
                answer["actions"] = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def put_large(self, oid: str, content: bytes) -> dict[str, str]:
        assert hashlib.sha256(content).hexdigest() == oid
        self.large[oid] = content
        return {}

    def commit(self, name: str, lines: bytes) -> dict[str, Any]:
        repository = self.repository(name)
        for line in lines.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "file":
                    content = base64.b64decode(value["content"])
                    repository.files[value["path"]] = File(content, lfs=False)
                case "lfsFile":
                    if value["oid"] not in self.large:
                        raise RefusalError(422, "LfsMissing", f"{value['path']} was not uploaded")
                    repository.files[value["path"]] = File(self.large[value["oid"]], lfs=True)
                case "deletedFile":
                    del repository.files[value["path"]]
        repository.commits += 1
        url = f"{self.url}/{name}/commit/{repository.sha}"
        return {"success": True, "commitOid": repository.sha, "commitUrl": url}

    def info(self, name: str, revision: str | None) -> dict[str, Any]:
        repository = self.repository(name)
        sha, files = repository.at(revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {
            "_id": "0",
            "id": name,
            "sha": sha,
            "private": repository.private,
            "siblings": siblings,
            "tags": [],
        }

    def tree(self, name: str, revision: str) -> list[dict[str, Any]]:
        entries = []
        _, files = self.repository(name).at(revision)
        for path, file in sorted(files.items()):
            size = len(file.content)
            entry = {"type": "file", "path": path, "oid": file.git_oid, "size": size}
            if file.lfs:
                entry["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": 134}
            entries.append(entry)
        return entries


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: HubServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing on stderr."""

    def handle_any(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        body = self._body()
        if hub.hang_up_on and re.match(hub.hang_up_on, request):
            self.close_connection = True
            return
        with hub.lock:
            hub.requests.append(request)
            try:
                for pattern, status in hub.refuse.items():
                    if re.match(pattern, request):
                        raise RefusalError(status, "", "Not now")
                for pattern, statuses in hub.refuse_first.items():
                    if statuses and re.match(pattern, request):
                        raise RefusalError(statuses.pop(0), "", "Not now")
                for pattern, code in hub.refuse_as.items():
                    if re.match(pattern, request):
                        raise RefusalError(404, code, "Not found")
                self._route(request, body)
                for pattern in [one for one in hub.then if re.match(one, request)]:
                    hub.then.pop(pattern)()
            except RefusalError as refusal:
                headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
                answer = json.dumps({"error": refusal.message} | refusal.extra).encode()
                self._send(answer, headers, status=refusal.status)

    do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815

    def _route(self, request: str, body: bytes) -> None:
        hub, model = self.server, r"/api/models/([^/]+/[^/]+)"
        routes: list[tuple[str, Callable[..., Any]]] = [
            ("POST /api/validate-yaml", lambda: {"errors": [], "warnings": []}),
            ("POST /api/repos/create", lambda: hub.create(json.loads(body))),
            (rf"POST {model}/preupload/.+", lambda name: hub.preupload(name, json.loads(body))),
            (r"POST /.+\.git/info/lfs/objects/batch", lambda: hub.lfs_batch(json.loads(body))),
            (r"PUT /lfs/([0-9a-f]{64})", lambda oid: hub.put_large(oid, body)),
            (rf"POST {model}/commit/.+", lambda name: hub.commit(name, body)),
            (rf"GET {model}(?:/revision/(.+))?", hub.info),
            (rf"GET {model}/tree/(.+)", hub.tree),
        ]
        if not request.startswith("PUT") and self.headers["Authorization"] != f"Bearer {TOKEN}":
            raise RefusalError(401, "", "Invalid username or password.")
        if match := re.fullmatch(r"(?:HEAD|GET) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request):
            return self._send_file(*hub.repository(match[1]).at(match[2]), match[3])
        for pattern, answer in routes:
            if match := re.fullmatch(pattern, request):
                return self._send(json.dumps(answer(*match.groups())).encode(), {})
        raise RefusalError(404, "EntryNotFound", f"no route for {request}")

    def _send_file(self, sha: str, files: dict[str, File], path: str) -> None:
        if path not in files:
            raise RefusalError(404, "EntryNotFound", "Entry not found")
        file = files[path]
        headers = {"ETag": f'"{file.oid}"', "X-Repo-Commit": sha}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
        self._send(file.content, headers)

    def _send(self, content: bytes, headers: dict[str, str], *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)
