"""A small stand-in for the Hugging Face hub that serves folders to the real client.

It speaks as much of the hub's HTTP as `huggingface_hub` 0.36 to 2.4 uses for reading models and data
sets: their info, file tree, and `resolve` with HEAD and GET. Every request is recorded, so a test can say what
was fetched. Point the client at it with HF_ENDPOINT.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DENIED_WITHOUT_TOKEN = "Access to model {repo} is restricted. You must have access to it and be authenticated."
INVALID_TOKEN = "hf_invalid"
DENIED_WITH_TOKEN = "Access to model {repo} is restricted and you are not in the authorized list."


@dataclass
class Repo:
    """One repository: commits by 40-digit hash, and branches or tags that name them.

    `gated` repositories show their info to everybody and their files to `readers` (tokens) only;
    `private` ones look to everybody else as if they did not exist.
    """

    commits: dict[str, Path]
    refs: dict[str, str]
    gated: bool = False
    private: bool = False
    readers: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path, **options: Any) -> Repo:
        """A repository whose only commit, on `main`, holds the files of `folder`."""
        commit = hashlib.sha1(str(folder).encode()).hexdigest()
        return cls({commit: folder}, {"main": commit}, **options)


@dataclass
class FakeHub:
    """The running server: its address and the requests it got, as ``METHOD /path``."""

    url: str
    requests: list[str] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """Names of the files whose bytes were asked for."""
        return {
            line.split("/resolve/", 1)[1].split("/", 1)[1]
            for line in self.requests
            if line.startswith("GET /") and "/resolve/" in line
        }


@contextmanager
def fake_hub(repos: Mapping[str, Repo]) -> Iterator[FakeHub]:
    """Serve `repos` (models by ``org/name``, data sets by ``datasets/org/name``) on a free local port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    server.repos, server.hub = repos, hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str | None, message: str, commit: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.commit = status, code, message, commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Keep the test output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.hub.requests.append(f"{self.command} {path}")  # type: ignore[attr-defined]
        try:
            if path.startswith("/api/models/"):
                self._api(path.removeprefix("/api/models/"))
            elif path.startswith("/api/datasets/"):
                self._api(path.removeprefix("/api/"))
            elif "/resolve/" in path:
                repo_id, rest = path.lstrip("/").split("/resolve/", 1)
                revision, _, name = rest.partition("/")
                self._resolve(repo_id, revision, name)
            else:
                raise _Refused(404, None, "No such page.")
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            if refused.commit:
                headers["X-Repo-Commit"] = refused.commit
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, repo_id: str) -> Repo:
        if self._token == INVALID_TOKEN:
            raise _Refused(401, None, "Invalid credentials in Authorization header")
        repo: Repo | None = self.server.repos.get(repo_id)  # type: ignore[attr-defined]
        if repo is None or (repo.private and self._token not in repo.readers):
            if self._token:
                raise _Refused(404, "RepoNotFound", "Repository not found")
            raise _Refused(401, None, "Invalid username or password.")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _api(self, path: str) -> None:
        repo_id, kind, rest = path, "revision", "main"
        for word in ("revision", "tree"):
            if f"/{word}/" in path:
                repo_id, _, rest = path.partition(f"/{word}/")
                kind = word
        repo = self._repo(repo_id)
        revision, _, folder = rest.partition("/")
        commit = self._commit(repo, revision)
        files = sorted(p for p in repo.commits[commit].rglob("*") if p.is_file())
        names = {p.relative_to(repo.commits[commit]).as_posix(): p for p in files}
        if kind == "tree":
            found = {n: p for n, p in names.items() if not folder or n.startswith(f"{folder}/")}
            if folder and not found:
                raise _Refused(404, "EntryNotFound", f"{folder} does not exist on {revision}", commit)
            body: Any = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": _oid(p)} for n, p in found.items()
            ]
        else:
            siblings = [{"rfilename": n, "size": p.stat().st_size, "blobId": _oid(p)} for n, p in names.items()]
            body = {
                "_id": commit[:24],
                "id": repo_id.removeprefix("datasets/"),
                "modelId": repo_id,
                "sha": commit,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "tags": [],
                "siblings": siblings,
            }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json", "X-Repo-Commit": commit})

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self._repo(repo_id)
        commit = self._commit(repo, revision)
        if repo.gated and self._token not in repo.readers:
            status, text = (403, DENIED_WITH_TOKEN) if self._token else (401, DENIED_WITHOUT_TOKEN)
            raise _Refused(status, "GatedRepo", text.format(repo=repo_id))
        path = repo.commits[commit] / name
        if not path.is_file():
            raise _Refused(404, "EntryNotFound", "Entry not found", commit)
        headers = {"ETag": f'"{_oid(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        self._send(200, path.read_bytes(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
