"""The distribution for HTTP clients: built as pip builds it, used where nothing else is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import tomllib
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.answer_receipts import make_receipt
from tests.support.builds import build, unpack

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "packages" / "client"
# What httpx brings along; everything else that is installed here is out of reach there.
BROUGHT = ("httpx", "httpcore", "h11", "anyio", "certifi", "idna", "sniffio", "typing_extensions")
ANSWER = 'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}], '
ANSWER += '"mesh": {"receipts": [{"version": 1}]}}\n\n'
ASK = """
import asyncio, sys
from mesh.client import AnswerReceipt, HttpMeshClient, Sampling

async def main():
    receipt = AnswerReceipt()
    async with HttpMeshClient(sys.argv[1], model="m") as client:
        messages = [{"role": "user", "content": "?"}]
        sampling = Sampling(seed=1)
        async for piece in client.generate(
            messages, max_new_tokens=1, sampling=sampling, receipt=receipt
        ):
            print(piece.text, piece.finish_reason)
    print(receipt.to_dict())

asyncio.run(main())
heavy = {"torch", "hivemind", "transformers", "tokenizers", "nacl", "numpy", "mesh.p2p"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", PROJECT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def gateway_url():
    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ANSWER.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_client_needs_httpx_and_nothing_else(wheel, gateway_url, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for name in BROUGHT:
        link(name, tmp_path)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{ASK}"
    # -I and -S: neither this environment's packages nor this folder's modules.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, gateway_url], capture_output=True, timeout=60
    )
    assert done.stderr.decode() == ""
    assert done.stdout.decode().splitlines() == ["hi stop", "{'version': 1}", "[]"]


CHECK = """
import json, sys
from mesh.client import AnswerReceipt, ReceiptRefused
told = json.load(open(sys.argv[1]))
receipt = AnswerReceipt()
receipt.take(told)
checked = receipt.check()
print(checked.is_complete, checked.is_disclosed, len(checked.parts[0].route))
told["token_ids"][0] += 1
receipt.take(told)
try:
    receipt.check()
except ReceiptRefused as error:
    print(error.field)
heavy = {"torch", "hivemind", "transformers", "tokenizers", "numpy"}
print(sorted(heavy & set(sys.modules)))
"""
CHECKERS = (
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions"),
    *("base58", "nacl", "cffi", "_cffi_backend", "pycparser"),
)


def link(name: str, folder: Path) -> None:
    """Put an installed package into reach of a program that sees ``folder`` only."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:
        origin = Path(spec.origin)
        origin = origin.parent if origin.name == "__init__.py" else origin
        (folder / origin.name).symlink_to(origin)


def test_receipts_are_checked_without_torch_and_hivemind(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for name in CHECKERS:
        link(name, tmp_path)
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(make_receipt()))
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CHECK}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(file)], capture_output=True, timeout=60
    )
    assert done.stderr.decode() == ""
    assert done.stdout.decode().splitlines() == ["True True 3", "token_ids", "[]"]


def test_what_checks_receipts_is_the_extra_of_the_same_versions():
    node = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    client = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(client["optional-dependencies"]["receipts"]) <= set(node["dependencies"])


def test_heavy_names_are_refused_by_python_itself_where_they_are_missing(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom mesh.client import connect"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True)
    assert b"ModuleNotFoundError" in done.stderr


def test_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    unpacked = unpack(build("sdist", PROJECT, tmp_path), tmp_path)
    rebuilt = build("wheel", unpacked, tmp_path)

    def list_files(path: Path) -> dict[str, int]:
        found = zipfile.ZipFile(path).infolist()
        return {entry.filename: entry.CRC for entry in found if ".dist-info/" not in entry.filename}

    assert list_files(rebuilt) == list_files(wheel)
    assert {"mesh/client/http.py", "mesh/py.typed"} <= set(list_files(wheel))


def test_both_distributions_have_one_version_and_one_httpx():
    node = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    client = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert client["version"] == node["version"]
    assert client["requires-python"] == node["requires-python"]
    assert client["dependencies"] == node["optional-dependencies"]["client"]


def test_importing_the_client_package_imports_nothing_heavy():
    script = (
        "import sys, mesh.client\n"
        "assert 'connect' in dir(mesh.client)\n"
        "print(sorted({'torch', 'hivemind', 'transformers', 'httpx', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.decode().strip() == "[]"


def test_unknown_names_are_no_attributes():
    import mesh.client

    with pytest.raises(AttributeError):
        mesh.client.nobody  # noqa: B018
