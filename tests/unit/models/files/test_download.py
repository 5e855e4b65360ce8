"""Downloads from a real hub and CDN that redirect, cut connections, lie and refuse."""

import hashlib
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from heartcode_models.catalogue.entries import HubFile
from heartcode_models.catalogue.lock import Pin
from heartcode_models.errors import ModelError, SourceError
from heartcode_models.files import place
from heartcode_models.files.hub import Hub
from heartcode_models.files.part import PartFile, part_path
from heartcode_models.files.place import RESERVE, Place, Verified, Wanted
from heartcode_models.files.transfer import Source, Transfer

from tests.model_hub import COMMIT, ModelHub
from tests.unit.models.conftest import NAME, REPOSITORY

#: As the download reads: what is cut within a piece is lost.
PIECE = 65536
FILE = HubFile(repository=REPOSITORY, revision="main", path=NAME)


@dataclass
class Told:
    """What the person is told; `dones` is how far the bar has been."""

    lines: list[str] = field(default_factory=list)
    dones: list[int] = field(default_factory=list)

    def begin(self, label: str, total: int, done: int) -> None:
        self.lines.append(f"{label} {total} {done}")

    def update(self, done: int) -> None:
        self.dones.append(done)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def end(self) -> None:
        self.lines.append("end")


class Downloads:
    """A directory of models, the hub's file, and what happened."""

    def __init__(self, directory: Path, hub: ModelHub, content: bytes) -> None:
        self.hub = hub
        self.content = content
        self.told = Told()
        self.pauses: list[float] = []
        self.wanted = Wanted(
            name=NAME, sha256=hashlib.sha256(content).hexdigest(), size=len(content)
        )
        self.place = Place(
            directory=directory / "models",
            verified=Verified(directory / "notes"),
            progress=self.told,
            transfer=Transfer(self.told, self.pauses.append),
        )

    @property
    def path(self) -> Path:
        return self.place.directory / NAME

    @property
    def part(self) -> Path:
        return part_path(self.path, self.wanted.sha256)

    @property
    def ranges(self) -> list[str]:
        return [asked.range for asked in self.hub.to("cdn")]

    def source(self, token: str = "") -> Source:
        return Source(url=Hub(self.hub.url).url(FILE, COMMIT), token=token)

    def fetch(self, *sources: Source) -> Source | None:
        return self.place.fetch(self.wanted, sources or [self.source()])

    def leave_part(self, content: bytes) -> None:
        self.place.directory.mkdir(exist_ok=True)
        self.part.write_bytes(content)


@pytest.fixture
def downloads(tmp_path: Path, hub: ModelHub, model: bytes) -> Downloads:
    return Downloads(tmp_path, hub, model)


# --- what the hub says -------------------------------------------------------------------------


def test_the_hub_tells_what_the_file_is(hub: ModelHub, model: bytes) -> None:
    told = Hub(hub.url).ask(FILE)
    assert told == Pin(
        asked="main", commit=COMMIT, sha256=hashlib.sha256(model).hexdigest(), size=len(model)
    )
    assert hub.to("cdn") == [], "the bytes were not asked for"


def test_a_renamed_repository_is_found(hub: ModelHub) -> None:
    hub.does.renamed = {"people/Old": REPOSITORY}
    assert Hub(hub.url).ask(replace(FILE, repository="people/Old")).commit == COMMIT


def test_a_hub_that_leads_in_a_circle_is_left(hub: ModelHub) -> None:
    hub.does.renamed = {REPOSITORY: REPOSITORY}
    with pytest.raises(SourceError, match="redirects 5 times"):
        Hub(hub.url).ask(FILE)


def test_a_hub_that_does_not_tell_is_no_hub(hub: ModelHub) -> None:
    hub.does.tells = False
    with pytest.raises(SourceError, match=r"does not tell the SHA-256 and the size.*HF_ENDPOINT"):
        Hub(hub.url).ask(FILE)


@pytest.mark.parametrize("endpoint", ["hub.example", "ftp://hub", "https://", "https://me:pw@hub"])
def test_an_endpoint_that_is_no_url(endpoint: str) -> None:
    with pytest.raises(ModelError, match="HF_ENDPOINT is"):
        Hub(endpoint)


def test_a_token_with_a_line_break_is_refused_and_not_shown() -> None:
    with pytest.raises(ModelError) as error:
        Hub(token="hf_secret\nX-Evil: 1")  # noqa: S106
    assert "hf_secret" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "token", "message"),
    [
        (401, "", "answers 401 Unauthorized: .*set HF_TOKEN"),
        (401, "hf_x", "the token in HF_TOKEN is not accepted"),
        (403, "", "accept its terms on its page and set HF_TOKEN"),
        (403, "hf_x", "account of HF_TOKEN may not have this model"),
        (404, "", "no such file: was it renamed"),
        (429, "", "too many requests: try again in 40 s; with HF_TOKEN the limits are higher"),
        (429, "hf_x", "too many requests: try again in 40 s$"),
        (503, "", "answers 503 Service Unavailable: try again later"),
        (418, "", "answers 418"),
    ],
)
def test_a_refusal_says_what_to_do(hub: ModelHub, status: int, token: str, message: str) -> None:
    hub.does.statuses, hub.does.headers = [status], {"Retry-After": "40"}
    with pytest.raises(SourceError, match=message) as error:
        Hub(hub.url, token).ask(FILE)
    assert "hf_x" not in str(error.value)


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 cannot be reached: .*[Rr]efused"),
        (
            "http://hub.invalid",
            r"http://hub.invalid cannot be reached: .*(resolve|known|resolution)",
        ),
    ],
)
def test_no_network(endpoint: str, message: str, hub: ModelHub) -> None:
    assert hub.asked == []
    with pytest.raises(SourceError, match=message):
        Hub(endpoint).ask(FILE)


def test_a_proxy_that_does_not_work(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(SourceError, match=r"the proxy on the way .* HTTPS_PROXY and NO_PROXY"):
        Hub(hub.url).ask(FILE)
    assert hub.asked == []


def test_a_server_without_tls(hub: ModelHub) -> None:
    with pytest.raises(SourceError, match=r"is not trusted|cannot be reached"):
        Hub(hub.url.replace("http:", "https:")).ask(FILE)


# --- whole downloads ---------------------------------------------------------------------------


def test_a_file_comes_whole_from_the_cdn(downloads: Downloads) -> None:
    assert downloads.fetch() == downloads.source()
    assert downloads.path.read_bytes() == downloads.content
    assert [path.name for path in downloads.place.directory.iterdir()] == [NAME], "nothing is left"
    assert downloads.path.stat().st_mode & 0o777 == 0o644
    assert downloads.ranges == [""]
    assert downloads.told.dones[-1] == len(downloads.content)


def test_what_is_there_is_not_asked_for_again(downloads: Downloads) -> None:
    downloads.fetch()
    before = len(downloads.hub.asked)
    assert downloads.fetch() is None
    assert len(downloads.hub.asked) == before


def test_what_is_there_is_read_again_only_when_it_has_changed(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = place._read

    def noted(path: Path) -> str:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(place, "_read", noted)
    downloads.fetch()
    assert downloads.place.holds(downloads.wanted)
    assert reads == [], "the download itself has seen every byte"
    downloads.path.write_bytes(downloads.content[:-1] + b"x")
    assert not downloads.place.holds(downloads.wanted)
    assert reads == [downloads.path]


def test_a_file_of_the_same_name_is_replaced_and_that_is_said(downloads: Downloads) -> None:
    downloads.place.directory.mkdir()
    downloads.path.write_bytes(downloads.content[:1000])
    downloads.fetch()
    assert downloads.path.read_bytes() == downloads.content
    assert any(
        "is another file (1 kB); it is replaced when" in line for line in downloads.told.lines
    )


def test_the_token_is_for_the_hub_alone(downloads: Downloads) -> None:
    downloads.hub.does.token = "hf_secret"  # noqa: S105
    Hub(downloads.hub.url, "hf_secret").ask(FILE)
    downloads.fetch(downloads.source("hf_secret"))
    assert {asked.authorization for asked in downloads.hub.to("hub")} == {"Bearer hf_secret"}
    assert {asked.authorization for asked in downloads.hub.to("cdn")} == {""}
    assert downloads.path.exists()


def test_the_token_wins_over_a_netrc(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    downloads.fetch(downloads.source("hf_secret"))
    assert downloads.hub.to("hub")[0].authorization == "Bearer hf_secret"


# --- interrupted ones --------------------------------------------------------------------------


def test_a_cut_connection_is_resumed(downloads: Downloads) -> None:
    downloads.hub.does.cuts = [2 * PIECE + 5000, PIECE]
    downloads.fetch()
    assert downloads.path.read_bytes() == downloads.content
    assert downloads.ranges == ["", f"bytes={2 * PIECE}-", f"bytes={3 * PIECE}-"]
    assert downloads.pauses == [1.0, 1.0], "each had brought something"


def test_a_cut_that_only_the_count_shows_is_resumed(downloads: Downloads) -> None:
    """Without a Content-Length a closed connection looks like the end."""
    downloads.hub.does.chunked = True
    downloads.hub.does.cuts = [PIECE + 5000]
    downloads.fetch()
    assert downloads.path.read_bytes() == downloads.content
    assert downloads.ranges == ["", f"bytes={PIECE + 5000}-"]


def test_a_server_that_sends_nothing_is_given_up_and_the_part_is_kept(downloads: Downloads) -> None:
    downloads.hub.does.cuts = [PIECE, 0, 0, 0, 0, 0]
    with pytest.raises(ModelError, match=r"tried 5 times(.|\n)*66 kB are kept"):
        downloads.fetch()
    assert downloads.part.read_bytes() == downloads.content[:PIECE]
    assert not downloads.path.exists()
    assert downloads.pauses == [1.0, 2.0, 4.0, 8.0]
    downloads.hub.does.cuts = []
    downloads.fetch()
    assert downloads.ranges[-1] == f"bytes={PIECE}-"
    assert downloads.path.read_bytes() == downloads.content


def test_the_next_run_goes_on_where_the_last_one_ended(downloads: Downloads) -> None:
    downloads.leave_part(downloads.content[:70_001])
    downloads.fetch()
    assert downloads.ranges == ["bytes=70001-"]
    assert downloads.path.read_bytes() == downloads.content


def test_a_part_that_is_whole_needs_no_byte_more(downloads: Downloads) -> None:
    downloads.leave_part(downloads.content)
    downloads.fetch()
    assert downloads.hub.asked == []
    assert downloads.path.read_bytes() == downloads.content


def test_a_part_that_is_too_long_is_started_again(downloads: Downloads) -> None:
    downloads.leave_part(downloads.content + b"more")
    downloads.fetch()
    assert downloads.ranges == [""]
    assert downloads.path.read_bytes() == downloads.content


def test_a_server_without_ranges_starts_from_zero(downloads: Downloads) -> None:
    downloads.hub.does.ranges = False
    downloads.leave_part(downloads.content[:70_000])
    downloads.fetch()
    assert downloads.path.read_bytes() == downloads.content
    assert "the server cannot resume: starting from zero" in downloads.told.lines


def test_a_damaged_part_is_found_out_and_started_again(downloads: Downloads) -> None:
    """A power cut can leave zeros where bytes had been written."""
    downloads.leave_part(downloads.content[:50_000] + bytes(20_000))
    downloads.fetch()
    assert downloads.ranges == ["bytes=70000-", ""]
    assert downloads.path.read_bytes() == downloads.content


def test_a_range_that_was_not_asked_for_is_refused(downloads: Downloads) -> None:
    downloads.hub.does.ranges = "shifted"
    downloads.leave_part(downloads.content[:70_000])
    with pytest.raises(ModelError, match="asked for bytes from 70000 on, the server sends"):
        downloads.fetch()
    assert downloads.part.stat().st_size == 70_000


def test_the_part_of_another_version_is_left_alone(downloads: Downloads) -> None:
    downloads.place.directory.mkdir()
    other = part_path(downloads.path, "f" * 64)
    other.write_bytes(b"GGUF of another day")
    downloads.fetch()
    assert downloads.ranges == [""]
    assert other.read_bytes() == b"GGUF of another day"


def test_two_downloads_of_one_file_do_not_mix(downloads: Downloads) -> None:
    downloads.leave_part(downloads.content[:1000])
    with (
        PartFile(downloads.path, downloads.wanted.sha256),
        pytest.raises(ModelError, match="is being downloaded by another process"),
    ):
        downloads.fetch()
    assert downloads.part.stat().st_size == 1000
    assert downloads.fetch() is not None


# --- a busy hub --------------------------------------------------------------------------------


def test_a_busy_hub_is_asked_again_when_it_says(downloads: Downloads) -> None:
    downloads.hub.does.statuses, downloads.hub.does.headers = [429, 503], {"Retry-After": "7"}
    downloads.fetch()
    assert downloads.pauses == [7.0, 7.0]
    assert downloads.path.read_bytes() == downloads.content


def test_a_hub_that_asks_to_wait_for_an_hour_is_not_waited_for(downloads: Downloads) -> None:
    downloads.hub.does.statuses, downloads.hub.does.headers = [429], {"Retry-After": "3600"}
    with pytest.raises(
        ModelError, match="429 Too Many Requests: too many requests: try again in 3600"
    ):
        downloads.fetch()
    assert downloads.pauses == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_asked_again(downloads: Downloads, status: int) -> None:
    downloads.hub.does.cdn_statuses = [status]
    with pytest.raises(ModelError, match=f"answers {status}"):
        downloads.fetch()
    assert len(downloads.hub.to("cdn")) == 1
    assert list(downloads.place.directory.iterdir()) == []


# --- lies --------------------------------------------------------------------------------------


def altered(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_file_with_another_hash_is_thrown_away(downloads: Downloads) -> None:
    downloads.hub.does.instead = altered(downloads.content)
    with pytest.raises(ModelError, match=r"has the SHA-256 .* must be .*; it is thrown away"):
        downloads.fetch()
    assert list(downloads.place.directory.iterdir()) == []
    assert downloads.ranges == [""]


def test_what_was_there_stays_when_the_new_one_is_wrong(downloads: Downloads) -> None:
    downloads.place.directory.mkdir()
    downloads.path.write_bytes(b"the old one")
    downloads.hub.does.instead = altered(downloads.content)
    with pytest.raises(ModelError, match="thrown away"):
        downloads.fetch()
    assert downloads.path.read_bytes() == b"the old one"


@pytest.mark.parametrize("difference", [-10, 10])
def test_a_file_of_another_size_is_refused_before_it_is_taken(
    downloads: Downloads, difference: int
) -> None:
    downloads.hub.does.instead = (downloads.content + bytes(10))[
        : len(downloads.content) + difference
    ]
    with pytest.raises(ModelError, match=r"the server has \d+ bytes under this name, the file has"):
        downloads.fetch()
    assert downloads.told.dones == []


def test_the_same_while_resuming(downloads: Downloads) -> None:
    downloads.leave_part(downloads.content[:1000])
    downloads.hub.does.instead = downloads.content + bytes(10)
    with pytest.raises(ModelError, match="the server has"):
        downloads.fetch()
    assert downloads.part.read_bytes() == downloads.content[:1000]


def test_a_file_that_has_shrunk_below_the_part_is_refused(downloads: Downloads) -> None:
    downloads.leave_part(downloads.content[:1000])
    downloads.hub.does.instead = downloads.content[:500]
    with pytest.raises(ModelError, match="the server has 500 bytes"):
        downloads.fetch()


def test_a_server_that_does_not_stop_is_stopped(downloads: Downloads) -> None:
    downloads.hub.does.instead = downloads.content + bytes(10)
    downloads.hub.does.chunked = True
    with pytest.raises(ModelError, match="the server sends more than"):
        downloads.fetch()


def test_a_web_page_instead_of_a_model_is_seen_at_once(downloads: Downloads) -> None:
    downloads.hub.does.instead = b"<html>Log in to the hotel's network</html>"
    downloads.hub.does.chunked = True
    with pytest.raises(ModelError, match=r"sends no GGUF.*\(a web page\)"):
        downloads.fetch()


def test_a_hub_that_lies_about_the_hash_is_not_believed(downloads: Downloads) -> None:
    downloads.hub.does.told_sha256 = "0" * 64
    told = Hub(downloads.hub.url).ask(FILE)
    with pytest.raises(ModelError, match="must be 0000"):
        downloads.place.fetch(replace(downloads.wanted, sha256=told.sha256), [downloads.source()])


def test_a_truncated_model_on_the_hub_is_no_model(downloads: Downloads) -> None:
    half = downloads.content[: len(downloads.content) // 2]
    downloads.hub.does.instead = half
    wanted = Wanted(name=NAME, sha256=hashlib.sha256(half).hexdigest(), size=len(half))
    with pytest.raises(ModelError, match="the download is incomplete"):
        downloads.place.fetch(wanted, [downloads.source()])
    assert list(downloads.place.directory.iterdir()) == []


# --- more than one source ----------------------------------------------------------------------


def test_the_hub_goes_on_where_the_mirror_has_failed(downloads: Downloads, model: bytes) -> None:
    with ModelHub({f"{REPOSITORY}/{NAME}": model}) as mirror:
        mirror.does.cuts = [PIECE, 0, 0, 0, 0, 0]
        first = Source(url=f"{mirror.cdn}/{REPOSITORY}/{NAME}")
        assert downloads.fetch(first, downloads.source()) == downloads.source()
        assert len(mirror.to("cdn")) == 5
    assert downloads.ranges == [f"bytes={PIECE}-"]
    assert downloads.path.read_bytes() == model
    assert any(line.startswith(first.url) for line in downloads.told.lines)


def test_a_mirror_with_a_wrong_file_does_no_harm(downloads: Downloads, model: bytes) -> None:
    with ModelHub({f"{REPOSITORY}/{NAME}": altered(model)}) as mirror:
        first = Source(url=f"{mirror.cdn}/{REPOSITORY}/{NAME}")
        assert downloads.fetch(first, downloads.source()) == downloads.source()
    assert downloads.path.read_bytes() == model


def test_a_mirror_that_works_spares_the_hub(downloads: Downloads, model: bytes) -> None:
    with ModelHub({f"{REPOSITORY}/{NAME}": model}) as mirror:
        first = Source(url=f"{mirror.cdn}/{REPOSITORY}/{NAME}")
        assert downloads.fetch(first, downloads.source()) == first
    assert downloads.hub.asked == []


def test_when_none_has_it_every_reason_is_told(downloads: Downloads) -> None:
    downloads.hub.does.statuses = [404]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    mirror = Source(url=f"http://127.0.0.1:{port}/{NAME}")
    with pytest.raises(ModelError) as error:
        downloads.fetch(mirror, downloads.source())
    assert f"{mirror.url}: http://127.0.0.1:{port} cannot be reached" in str(error.value)
    assert "answers 404" in str(error.value)


# --- the disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [0, 50_000])
def test_a_full_disk_is_found_before_the_first_byte(downloads: Downloads, there: int) -> None:
    if there:
        downloads.leave_part(downloads.content[:there])
    missing = len(downloads.content) - there
    full = replace(downloads.place, free=lambda _: RESERVE + missing - 1)
    with pytest.raises(ModelError, match=r"free; Counting-Q4_K_M.gguf needs .*Make room there"):
        full.fetch(downloads.wanted, [downloads.source()])
    assert downloads.hub.asked == []
    enough = replace(downloads.place, free=lambda _: RESERVE + missing)
    assert enough.fetch(downloads.wanted, [downloads.source()])


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_on_the_way_costs_nothing_that_has_come(downloads: Downloads) -> None:
    with (
        files_no_larger_than(120_000),
        pytest.raises(ModelError, match=r"cannot be written: .* it goes on from here"),
    ):
        downloads.fetch()
    assert downloads.part.read_bytes() == downloads.content[: downloads.part.stat().st_size]
    downloads.fetch()
    assert downloads.path.read_bytes() == downloads.content


def test_a_directory_that_cannot_be_made(downloads: Downloads, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelError, match="cannot be used: File exists"):
        downloads.fetch()
