"""A stand-in for the Hugging Face Hub: as much of its interface as its client asks for a model."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"


@dataclass
class Repository:
    """Branches and commits; a commit is all files by their names."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str = "") -> str:
        """Add files to a branch; returns the commit."""
        before = self.commits.get(self.branches.get(branch, ""), {})
        sha = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = {**before, **files}, sha
        self.messages.append(message)
        return sha


@dataclass
class Hub:
    """What is on the server, and what it was asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> Repository:
        """Put a repository there."""
        self.repositories[name] = Repository(private)
        self.repositories[name].commit("main", files)
        return self.repositories[name]


class Answers(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                answer(self, *map(unquote, found.groups()))
                return
        self.fail(404, "EntryNotFound")

    @property
    def authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply(self, document: Any, status: int = 200) -> None:
        self.send(json.dumps(document).encode(), status, Content_Type="application/json")

    def fail(self, status: int, code: str) -> None:
        self.send(b"", status, X_Error_Code=code, X_Error_Message=code)

    def repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.authorised):
            self.fail(401, "RepoNotFound")
            return None
        return found

    def create(self) -> None:
        if not self.authorised:
            self.fail(401, "Unauthorized")
            return
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        if name in self.hub.repositories:
            self.reply({"url": f"{self.hub.address}/{name}", "error": "it exists"}, 409)
            return
        self.hub.add(name, {}, private=private)
        self.reply({"url": f"{self.hub.address}/{name}", "id": name})

    def info(self, name: str) -> None:
        found = self.repository(name)
        if found:
            about = {"id": name, "private": found.private, "sha": found.branches["main"]}
            self.reply({**about, "tags": [], "downloads": 0, "siblings": []})

    def branch(self, name: str, branch: str) -> None:
        found = self.repository(name)
        if found and branch in found.branches:
            self.reply({"error": "it exists"}, 409)
        elif found:
            found.branches[branch] = found.branches["main"]
            self.reply({})

    def preupload(self, name: str, _: str) -> None:
        if self.repository(name):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self.reply({"files": files})

    def batch(self, _: str) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{item['oid']}"}}}
            for item in json.loads(self.body)["objects"]
        ]
        self.reply({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.uploads[oid] = self.body
        self.send(b"")

    def commit(self, name: str, branch: str) -> None:
        found = self.repository(name)
        if found is None:
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        sha = found.commit(branch, files, lines[0]["value"]["summary"])
        url = f"{self.hub.address}/{name}/commit/{sha}"
        self.reply({"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    def resolve(self, name: str, revision: str, file: str) -> None:
        found = self.repository(name)
        if found is None:
            return
        sha = found.branches.get(revision, revision)
        if sha not in found.commits:
            self.fail(404, "RevisionNotFound")
        elif file not in found.commits[sha]:
            self.fail(404, "EntryNotFound")
        else:
            content = found.commits[sha][file]
            digest = hashlib.sha256(content).hexdigest()
            self.send(content, X_Repo_Commit=sha, ETag=f'"{digest}"')


_NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"/api/repos/create", Answers.create),
    (r"/api/validate-yaml", lambda self: self.reply({})),
    (rf"/api/models/{_NAME}", Answers.info),
    (rf"/api/models/{_NAME}/branch/(.+)", Answers.branch),
    (rf"/api/models/{_NAME}/preupload/(.+)", Answers.preupload),
    (rf"/api/models/{_NAME}/commit/(.+)", Answers.commit),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", Answers.batch),
    (r"/lfs/(\w+)", Answers.store),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", Answers.resolve),
)


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Run the stand-in on a free port of this machine."""
    hub = Hub()
    handler = type("Bound", (Answers,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
