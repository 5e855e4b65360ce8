"""Headers of real GGUF files, from the disk and over HTTP; broken ones get an error."""

import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from heartcode_models.demo.counting import write_model
from heartcode_models.errors import ModelError
from heartcode_models.gguf.header import SkippedArray, read_header
from heartcode_models.gguf.read_model import model_of
from heartcode_models.planner.find_models import find_models, stands_in
from heartcode_models.planner.known_models import known_model
from heartcode_models.units import MIB
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.planning.synthetic import write_synthetic


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An 8B of zeros: 4.9 GB to everybody who asks, a few MiB on the disk."""
    path = tmp_path_factory.mktemp("models") / "zeros-Q4_K_M.gguf"
    write_synthetic(path, "8B", "Q4_K_M")
    assert path.stat().st_blocks * 512 < 32 * MIB
    return path


class Server(ThreadingHTTPServer):
    """Serves one file; counts what it has sent."""

    daemon_threads = True

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.path, self.mode = path, mode
        self.sent = 0
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.gguf"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has seen enough hangs up."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = self.server.path.stat().st_size
        asked = self.headers["Range"] or ""
        self.server.ranges.append(asked)
        first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        if self.server.mode == "missing":
            self.send_error(404)
            return
        if self.server.mode == "redirect" and "moved" not in self.path:
            self.send_response(302)
            self.send_header("Location", "/moved.gguf")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.mode == "no ranges":
            first, last = 0, size - 1
            self.send_response(200)
        else:
            last = min(last, size - 1)
            shift = 7 if self.server.mode == "wrong range" else 0
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first + shift}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.send(first, last + 1)

    def send(self, start: int, end: int) -> None:
        with self.server.path.open("rb") as file:
            file.seek(start)
            while start < end:
                piece = file.read(min(65536, end - start))
                if self.server.mode == "breaks off" and self.server.sent > 3 * MIB:
                    self.close_connection = True
                    return
                self.wfile.write(piece)
                self.server.sent += len(piece)
                start += len(piece)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


@pytest.fixture
def server(model_file: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(model_file, request.param) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_s_header_is_what_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "counting.gguf"
    write_model(path, numbers=1500)
    header = read_header(str(path))
    reader = GGUFReader(path)
    assert [tensor.name for tensor in header.tensors] == [t.name for t in reader.tensors]
    assert [tensor.nbytes for tensor in header.tensors] == [t.n_bytes for t in reader.tensors]
    assert [tensor.sizes for tensor in header.tensors] == [
        tuple(int(n) for n in t.shape) for t in reader.tensors
    ]
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(length=1760)
    assert header.metadata["llama.attention.head_count_kv"] == 1
    assert header.file_bytes == path.stat().st_size


def test_a_file_s_model_is_the_built_in_one(model_file: Path) -> None:
    (model,) = find_models(str(model_file))
    built_in = known_model("8B", "Q4_K_M")
    assert model.name == "Llama-3.1-8B of zeros"
    # The synthetic vocabulary is shorter than Llama's.
    assert built_in == replace(model, name=built_in.name, file_bytes=built_in.file_bytes)


@pytest.mark.parametrize("server", ["ranges", "redirect"], indirect=True)
def test_a_server_with_ranges_sends_the_first_megabytes(server: Server, model_file: Path) -> None:
    assert find_models(server.url) == find_models(str(model_file))
    assert server.sent < 16 * MIB
    assert len(server.ranges) <= 10


@pytest.mark.parametrize("server", ["no ranges"], indirect=True)
def test_a_server_without_ranges_is_left_when_the_header_is_there(
    server: Server, model_file: Path
) -> None:
    assert find_models(server.url) == find_models(str(model_file))
    assert len(server.ranges) == 1
    # What lies in the buffers of both ends is beyond control.
    assert server.sent < 64 * MIB


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("missing", "answers 404"),
        ("wrong range", "asked for bytes from 0 on"),
        ("breaks off", "cannot be read|within its header"),
    ],
    indirect=["server"],
)
def test_a_server_that_fails_is_an_error(server: Server, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_header(server.url)


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_header("http://127.0.0.1:1/model.gguf")


def test_no_file_and_a_directory_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read_header(str(path))


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A header with every kind of value, and one tensor."""
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_float32("some.float", 0.5)
    writer.add_bool("some.bool", val=True)
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_array("some.strings", ["a", "b"] * 1000)
    writer.add_array("many.numbers", list(range(2000)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path.read_bytes()


def read_bytes(content: bytes, path: Path) -> dict[str, object]:
    path.write_bytes(content)
    return read_header(str(path)).metadata


def test_values_of_every_kind(small_file: bytes, tmp_path: Path) -> None:
    metadata = read_bytes(small_file, tmp_path / "x.gguf")
    assert metadata["some.float"] == 0.5
    assert metadata["some.bool"] is True
    assert metadata["some.numbers"] == [1, 2, 3]
    assert metadata["some.strings"] == SkippedArray(length=2000)
    assert metadata["many.numbers"] == SkippedArray(length=2000)


@settings(max_examples=60)
@given(data=st.data())
def test_a_truncated_file_is_an_error(
    small_file: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(small_file.rstrip(b"\0")) - 1))
    with pytest.raises(ModelError, match="no usable GGUF"):
        read_bytes(small_file[:length], tmp_path_factory.mktemp("cut") / "x.gguf")


def outcome(path: Path) -> str:
    """What is said of a file that may be damaged anywhere; nothing but ModelError may come."""
    try:
        return read_header(str(path)).source
    except ModelError as error:
        return str(error)


@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_file_is_an_error_or_readable(
    small_file: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(small_file) - 9))
    junk = data.draw(st.binary(min_size=1, max_size=8))
    damaged = small_file[:at] + junk + small_file[at + len(junk) :]
    path = tmp_path_factory.mktemp("damaged") / "x.gguf"
    path.write_bytes(damaged)
    assert str(path) in outcome(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends within its header"),
        (b"PK\x03\x04" + bytes(100), "begins with"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "version is 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "claims 1099511627776 tensors"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 40), "a string claims"),
    ],
)
def test_what_is_no_gguf_says_why(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_bytes(content, tmp_path / "x.gguf")


def test_an_incomplete_download_is_an_error(model_file: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.gguf"
    with model_file.open("rb") as file:
        part.write_bytes(file.read(8 * MIB))
    with pytest.raises(ModelError, match="download is incomplete"):
        read_header(str(part))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.attention.kv_lora_rank", 512, "compresses its KV cache"),
        ("split.count", 2, "one of 2 parts"),
        ("llama.block_count", 513, "513 layers"),
        ("llama.block_count", 33, "lacks layers"),
        ("llama.embedding_length", 0, "no usable metadata llama.embedding_length"),
        ("llama.attention.head_count", [32] * 31, "no usable metadata llama.attention.head_count"),
        ("llama.attention.head_count_kv", 0, "no attention"),
        ("general.architecture", None, "no usable metadata general.architecture"),
    ],
)
def test_a_model_that_cannot_be_planned_for_says_why(
    model_file: Path, key: str, value: object, message: str
) -> None:
    header = read_header(str(model_file))
    with pytest.raises(ModelError, match=message):
        model_of(replace(header, metadata=header.metadata | {key: value}))


def test_heads_that_differ_from_layer_to_layer(model_file: Path) -> None:
    header = read_header(str(model_file))
    heads = [8] * 16 + [4] * 16
    metadata = header.metadata | {"llama.attention.head_count_kv": heads}
    assert model_of(replace(header, metadata=metadata)).kv_heads == tuple(heads)


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("stheno", ["Q6_K", "Q5_K_M", "Q4_K_M"]),
        ("8b", ["Q6_K", "Q5_K_M", "Q4_K_M"]),
        ("8B Q5_K_M", ["Q5_K_M"]),
        ("lumimaid q4_k_m", ["Q4_K_M"]),
        ("Llama-3.1-8B-Stheno-v3.4-Q4_K_M.gguf", ["Q4_K_M"]),
        ("Lumimaid-v0.2-8B-Q6_K-imat.gguf", ["Q6_K"]),
    ],
)
def test_models_by_name(what: str, found: list[str]) -> None:
    models = find_models(what)
    assert [model.quantisation for model in models] == found
    assert {model.name for model in models} == {"Llama-3.1-8B"}


@pytest.mark.parametrize(
    ("what", "stood_in"),
    [
        ("8B", False),
        ("8b q4_k_m", False),
        ("Stheno", False),
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", False),
        ("Mistral-Small-24B-Instruct-2501-Q4_K_M.gguf", False),
        ("Qwen3-8B", True),
        ("gemma-3-12b-it-Q4_K_M.gguf", True),
        ("8B chat", True),
    ],
)
def test_a_name_that_tells_a_size_alone_is_said_to_be_stood_in_for(
    what: str, *, stood_in: bool
) -> None:
    said = stands_in(what, find_models(what))
    assert bool(said) == stood_in
    assert all(what in note and " is planned; its path or URL tells more" in note for note in said)


def test_a_file_that_can_be_read_stands_for_itself(model_file: Path) -> None:
    assert stands_in(str(model_file), find_models(str(model_file))) == ()


@pytest.mark.parametrize("what", ["", "13B", "0.8B", "18B", "models/8B.gguf", "8B IQ3_XS"])
def test_a_name_that_says_nothing_is_an_error(what: str) -> None:
    with pytest.raises(ModelError, match="path or URL"):
        find_models(what)
