"""oci_registry.py LAYOUT: serves an OCI layout as the repository "own" of a registry on a port that it prints (Docker's HTTP API V2, to read)."""
import http.server
import json
import pathlib
import sys

LAYOUT = pathlib.Path(sys.argv[1])


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def find(self):
        """(kind, content) of what the path names."""
        words = self.path.split("/")
        if self.path == "/v2/":
            return "application/json", b"{}"
        manifest = json.loads((LAYOUT / "index.json").read_text())["manifests"][0]
        if words[:3] == ["", "v2", "own"] and words[3] == "manifests" and words[4] in ("latest", manifest["digest"]):
            return manifest["mediaType"], (LAYOUT / "blobs" / manifest["digest"].replace(":", "/")).read_bytes()
        if words[:4] == ["", "v2", "own", "blobs"] and (LAYOUT / "blobs" / words[4].replace(":", "/")).exists():
            return "application/octet-stream", (LAYOUT / "blobs" / words[4].replace(":", "/")).read_bytes()
        return None, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'

    def do_GET(self):  # pylint: disable=invalid-name
        kind, data = self.find()
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if self.command == "GET" else b"")

    do_HEAD = do_GET

    def log_message(self, format, *args):  # pylint: disable=redefined-builtin
        pass


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
