"""A small Hugging Face Hub on loopback, so that publishing and loading are tested over real HTTP without a network.

It keeps repositories in memory and speaks the part of the Hub's protocol that `huggingface_hub`, `transformers` and
`datasets` use: whoami, create, info, refs, tree, paths-info, preupload, commit (ndjson), Git LFS, and resolve with
ranges and revisions. Faults are injected by `Hub.fail`.

Tokens: `hf_dummy` may write, `hf_readonly` may only read, any other is unknown (401).
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response


TOKENS = {"hf_dummy": "write", "hf_readonly": "read"}
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".jpg", ".tif", ".zip")


class HubError(Exception):
    def __init__(self, status: int, code: str, **body):
        self.response = JSONResponse({"error": code, **body}, status, {"X-Error-Code": code, "X-Error-Message": code})


@dataclass
class Repo:
    """A repository: every commit is a whole tree, path -> content."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit

    def commit(self, tree: dict[str, bytes], branch: str = "main") -> str:
        digest = hashlib.sha1(repr((len(self.commits), sorted(tree))).encode()).hexdigest()
        self.commits[digest], self.revisions[branch] = tree, digest
        return digest

    def resolve(self, revision: str) -> str:
        revision = self.revisions.get(revision, revision)
        if revision not in self.commits:
            raise HubError(404, "RevisionNotFound")
        return revision


def is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def object_id(path: str, content: bytes) -> str:
    """What git, or Git LFS, names this content: the client skips files that the Hub already has."""
    if is_lfs(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The server and its state. `repos[("model", "me/name")].commits` holds what arrived."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[dict] = []
        self._server = uvicorn.Server(uvicorn.Config(self, port=0, log_level="critical", lifespan="off"))
        self._app = build_app(self)

    def start(self) -> "Hub":
        threading.Thread(target=self._server.run, daemon=True).start()
        while not self._server.started:
            time.sleep(0.01)
        _, port = self._server.servers[0].sockets[0].getsockname()
        self.url = f"http://127.0.0.1:{port}"
        return self

    def stop(self) -> None:
        self._server.should_exit = True

    def reset(self) -> None:
        for state in (self.repos, self.blobs, self.requests, self.faults):
            state.clear()

    def fail(self, method: str, path: str, status: int | str = 500, times: int = 1) -> None:
        """The next `times` requests whose method and path match (regular expression) get `status`, or, for
        `"drop"`, a connection that closes in the middle of the answer."""
        self.faults.append({"method": method, "path": path, "status": status, "times": times})

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_type, repo_id]
        return repo.commits[repo.resolve(revision)]

    async def __call__(self, scope, receive, send):
        self.requests.append((scope["method"], scope["path"]))
        for fault in self.faults:
            if fault["times"] and fault["method"] == scope["method"] and re.search(fault["path"], scope["path"]):
                fault["times"] -= 1
                if fault["status"] == "drop":
                    # fewer bytes than announced: uvicorn closes the connection
                    headers = [(b"content-length", b"100")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    return
                response = JSONResponse({"error": "injected"}, fault["status"], {"X-Error-Message": "injected"})
                return await response(scope, receive, send)
        await self._app(scope, receive, send)


def build_app(hub: Hub) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(HubError)
    async def answer(request: Request, error: HubError):
        return error.response

    def access(request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def get_repo(request: Request, kind: str, owner: str, name: str, write: bool = False) -> Repo:
        level = access(request)
        repo = hub.repos.get((kind.removesuffix("s"), f"{owner}/{name}"))
        if repo is None or (repo.private and level is None):
            raise HubError(404 if level else 401, "RepoNotFound")
        if write and level != "write":
            raise HubError(403, "You need a token with write permission")
        return repo

    def info(kind: str, repo_id: str, repo: Repo, revision: str) -> dict:
        sha = repo.resolve(revision)
        entries = [entry(path, content) for path, content in repo.commits[sha].items()]
        siblings = [
            {"rfilename": e["path"], "size": e["size"], "blobId": e["oid"], "lfs": e.get("lfs")} for e in entries
        ]
        now = "2026-01-01T00:00:00.000Z"
        return {
            "_id": sha[:24], "id": repo_id, "modelId": repo_id, "sha": sha, "private": repo.private, "gated": False,
            "disabled": False, "lastModified": now, "createdAt": now, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0,
        }  # fmt: skip

    def entry(path: str, content: bytes) -> dict:
        found = {"type": "file", "path": path, "size": len(content), "oid": object_id(path, content)}
        if is_lfs(path):
            found["lfs"] = {"oid": found["oid"], "sha256": found["oid"], "size": len(content), "pointerSize": 130}
        return found

    def folder(path: str) -> dict:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    def folders(tree: dict[str, bytes]) -> list[str]:
        return sorted({"/".join(path.split("/")[:n]) for path in tree for n in range(1, path.count("/") + 1)})

    @app.get("/api/whoami-v2")
    def whoami(request: Request):
        level = access(request)
        if level is None:
            raise HubError(401, "Unauthorized")
        return {"type": "user", "name": "me", "orgs": [], "auth": {"accessToken": {"role": level}}}

    @app.post("/api/validate-yaml")
    def validate_yaml():
        return {"errors": [], "warnings": []}

    @app.post("/api/repos/create")
    async def create(request: Request):
        body = await request.json()
        level = access(request)
        if level != "write":
            raise HubError(403 if level else 401, "You need a token with write permission")
        kind, repo_id = body.get("type", "model"), f"{body.get('organization') or 'me'}/{body['name']}"
        url = f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if (kind, repo_id) in hub.repos:
            raise HubError(409, "You already created this repo", url=url)
        private = body.get("visibility") == "private" or body.get("private") is True
        hub.repos[kind, repo_id] = Repo(private=private)
        hub.repos[kind, repo_id].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": url, "id": repo_id, "private": private}

    @app.get("/api/{kind}/{owner}/{name}")
    @app.get("/api/{kind}/{owner}/{name}/revision/{revision:path}")
    def repo_info(request: Request, kind: str, owner: str, name: str, revision: str = "main"):
        return info(kind, f"{owner}/{name}", get_repo(request, kind, owner, name), revision)

    @app.get("/api/{kind}/{owner}/{name}/refs")
    def refs(request: Request, kind: str, owner: str, name: str):
        found = get_repo(request, kind, owner, name).revisions.items()
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in found]
        return {"branches": branches, "tags": [], "converts": []}

    @app.post("/api/{kind}/{owner}/{name}/branch/{branch}")
    @app.post("/api/{kind}/{owner}/{name}/tag/{branch}")
    async def branch(request: Request, kind: str, owner: str, name: str, branch: str):
        repo = get_repo(request, kind, owner, name, write=True)
        body = await request.json()
        if "/tag/" in request.url.path:
            branch, start = body["tag"], branch
        else:
            start = body.get("startingPoint") or "main"
        if branch in repo.revisions:
            raise HubError(409, "Reference already exists")
        repo.revisions[branch] = repo.resolve(start)
        return {}

    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}")
    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}/{path:path}")
    def tree(
        request: Request, kind: str, owner: str, name: str, revision: str, path: str = "", recursive: bool = False
    ):
        repo = get_repo(request, kind, owner, name)
        content = repo.commits[repo.resolve(revision)]
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        found = [folder(f) for f in folders(content)] + [entry(p, c) for p, c in content.items()]
        found = [e for e in found if e["path"].startswith(prefix)]
        if prefix and not found:
            raise HubError(404, "EntryNotFound")
        return [e for e in found if recursive or "/" not in e["path"].removeprefix(prefix)]

    @app.post("/api/{kind}/{owner}/{name}/paths-info/{revision}")
    async def paths_info(request: Request, kind: str, owner: str, name: str, revision: str):
        repo = get_repo(request, kind, owner, name)
        content = repo.commits[repo.resolve(revision)]
        if "json" in request.headers.get("content-type", ""):
            paths = (await request.json())["paths"]
        else:
            paths = (await request.form()).getlist("paths")
        paths = [p.strip("/") for p in paths]
        found = [entry(p, content[p]) for p in paths if p in content]
        return found + [folder(p) for p in paths if p in folders(content)]

    @app.post("/api/{kind}/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request, kind: str, owner: str, name: str, revision: str):
        repo = get_repo(request, kind, owner, name, write=True)
        content = repo.commits[repo.resolve(revision)]
        files = []
        for path in (f["path"] for f in (await request.json())["files"]):
            known = object_id(path, content[path]) if path in content else None
            mode = "lfs" if is_lfs(path) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return {"files": files}

    @app.post("/{repo:path}.git/info/lfs/objects/batch")
    async def lfs_batch(request: Request, repo: str):
        objects = []
        for item in (await request.json())["objects"]:
            upload = {"upload": {"href": f"{hub.url}/lfs/{item['oid']}", "header": {}}}
            objects.append({**item, **({} if item["oid"] in hub.blobs else {"actions": upload})})
        return {"transfer": "basic", "objects": objects}

    @app.put("/lfs/{oid}")
    async def lfs_put(request: Request, oid: str):
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "The content does not have this hash")
        hub.blobs[oid] = content

    @app.post("/api/{kind}/{owner}/{name}/commit/{revision}")
    async def commit(request: Request, kind: str, owner: str, name: str, revision: str):
        repo = get_repo(request, kind, owner, name, write=True)
        content = dict(repo.commits[repo.resolve(revision)])
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header" and value.get("parentCommit", repo.resolve(revision)) != repo.resolve(revision):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                content[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                content[value["path"]] = hub.blobs[value["oid"]]
            elif key in ("deletedFile", "deletedFolder"):
                gone = value["path"].strip("/")
                content = {p: c for p, c in content.items() if p != gone and not p.startswith(gone + "/")}
        sha = repo.commit(content, revision)
        return {
            "success": True,
            "commitOid": sha,
            "commitUrl": f"{hub.url}/{owner}/{name}/commit/{sha}",
            "hookOutput": "",
        }

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    @app.api_route("/{kind}/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve(request: Request, owner: str, name: str, revision: str, path: str, kind: str = "models"):
        repo = get_repo(request, kind, owner, name)
        sha = repo.resolve(revision)
        content = repo.commits[sha].get(path)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "Last-Modified": formatdate(usegmt=True)}
        if content is None:
            return Response(status_code=404, headers={**headers, "X-Error-Code": "EntryNotFound"})
        headers["ETag"] = f'"{object_id(path, content)}"'
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        status = 200
        if wanted:
            first = int(wanted[1]) if wanted[1] else max(0, len(content) - int(wanted[2]))
            last = min(int(wanted[2]), len(content) - 1) if wanted[1] and wanted[2] else len(content) - 1
            if first >= len(content):
                return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        return Response(content, status, headers, media_type="application/octet-stream")

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "POST"])
    def unknown(path: str):
        raise HubError(404, "RepoNotFound")

    return app
