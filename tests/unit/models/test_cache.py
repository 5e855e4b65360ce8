"""Where this machine keeps what it may lose."""

from pathlib import Path

from heartcode_models.cache import cache_directory


def test_a_directory_of_our_own_comes_before_the_person_s_caches() -> None:
    assert cache_directory({"HEARTCODE_CACHE_DIR": "/a"}) == Path("/a")
    assert cache_directory({"XDG_CACHE_HOME": "/b"}) == Path("/b/heartcode")
    assert cache_directory({}).name == "heartcode"
