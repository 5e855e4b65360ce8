from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from heartcode.errors import ApiError
from heartcode.routing.admission import Limits
from heartcode.routing.backend import Backend
from heartcode.routing.pool import Pool
from heartcode.routing.request_info import RequestInfo
from heartcode.routing.room import able, of_its_file, roomy
from heartcode.routing.served_model import ServedModel
from heartcode.upstream.identity import Identity, Told


def backend(
    n_ctx: int = 0, *, path: str = "a", name: str = "m", token_bytes: int = 0, ftype: str = "Q4_K_M"
) -> Backend:
    """A backend with so large a context; one of 0 has not said anything."""
    served = ServedModel("b", names=("m",), token_bytes=token_bytes)
    if n_ctx:
        told = Told(names=frozenset({name}), n_ctx=n_ctx, ftype=ftype, parameters=8)
        served.note(Identity(told=told, path=path), 0)
    return Backend(f"http://127.0.0.1:{n_ctx or 1}", served=served, slots=9)


def pool(*backends: Backend) -> Pool:
    return Pool(backends, limits=Limits(length=1, wait_s=0.01))


def taken(pool: Pool, fields: Mapping[str, object], **known: object) -> int:
    info = RequestInfo.of(fields, None)
    for name, value in known.items():
        setattr(info, name, value)
    lease = pool.take(info=info)
    assert lease is not None
    return lease.backend.served.n_ctx


def test_what_will_probably_not_fit_goes_where_it_does() -> None:
    small, large = backend(4096), backend(8192)
    both = pool(small, large)
    assert {taken(both, {"prompt": "x " * 100}) for _ in range(2)} == {4096, 8192}
    # 25,000 characters are taken for some 6,000 tokens.
    assert {taken(both, {"prompt": "word " * 5_000}) for _ in range(4)} == {8192}
    # Where none will do, the largest is asked.
    assert {taken(both, {"prompt": "word " * 50_000}) for _ in range(2)} == {8192}
    # The estimate may be wrong: what works comes before what has failed.
    large.has_failed("gone")
    assert taken(both, {"prompt": "word " * 5_000}) == 4096


def test_what_surely_does_not_fit_is_not_tried() -> None:
    small, large = backend(4096), backend(8192)
    both = pool(small, large)
    large.has_failed("gone")
    assert taken(both, {"prompt": "x"}, tokens=4095) == 4096
    # llama-server wants room for a token of the answer. The larger one may be back.
    assert taken(both, {"prompt": "x"}, tokens=4096) == 8192
    assert taken(both, {"prompt": [1] * 5000}) == 8192
    with pytest.raises(ApiError, match=re.escape("(at least 8192 tokens) exceeds")) as error:
        taken(both, {"prompt": "x"}, tokens=8192)
    assert (error.value.status, error.value.code) == (400, "exceed_context_size_error")


def test_a_prompt_that_fits_no_context_is_refused_before_it_is_sent() -> None:
    limited = [backend(256, token_bytes=10), backend(512, token_bytes=20)]
    # 512 tokens of 20 bytes: so many may still be so few tokens.
    fits, too_long = "é" * 5_110, "é" * 5_120
    for prompt, spaces in ((fits, ""), (fits, " \n" * 50_000)):
        assert taken(pool(*limited), {"prompt": spaces + prompt + spaces}) == 512
    content = [{"type": "text", "text": too_long}]
    for fields in (
        {"prompt": too_long},
        {"messages": [{"role": "user", "content": too_long}]},
        {"messages": [{"role": "user", "content": content}, {"role": "user", "content": "x"}]},
    ):
        with pytest.raises(ApiError, match=re.escape("the available context size (512 tokens)")):
            taken(pool(*limited), fields)


@pytest.mark.parametrize(
    "fields",
    [
        # A template may leave these out, and what is filled in is cut.
        {"messages": [{"role": "system", "content": "x" * 99_999}]},
        {"messages": [{"role": "assistant", "content": "x" * 99_999}]},
        {"prompt": "x" * 99_999, "input_prefix": "a", "input_suffix": "b"},
        {"prompt": ["x" * 99_999]},
        {"messages": [1, {"role": "user"}, {"role": "user", "content": [1, {"text": 1}]}]},
    ],
)
def test_what_might_fit_after_all_is_sent(fields: dict[str, object]) -> None:
    assert taken(pool(backend(256, token_bytes=10)), fields) == 256


def test_nothing_is_refused_where_not_all_is_known() -> None:
    prompt = {"prompt": "x" * 99_999}
    assert taken(pool(backend(256, token_bytes=10), backend()), prompt) == 0
    assert taken(pool(backend(256)), prompt) == 256


def test_an_answer_goes_on_with_the_file_that_it_began_with() -> None:
    begun, same, other, unknown = backend(9), backend(10), backend(11, path="b"), backend()
    info = RequestInfo.of({"prompt": "x"}, None)
    info.begun_by = begun.served.identity
    assert able([same, other, unknown], info) == [same, unknown]
    assert able([same, other, unknown], None) == [same, other, unknown]


def test_another_quantisation_goes_on_where_the_file_cannot() -> None:
    begun, same, other = backend(9), backend(10), backend(11, path="b", ftype="Q6_K")
    replaced = backend(12, ftype="Q6_K")  # in its place, as the change of a model leaves it
    info = RequestInfo.of({"prompt": "x"}, None)
    assert of_its_file([same, other], info) == [same, other]
    info.begun_by = begun.served.identity
    assert able([same, other, replaced], info) == [same, other]
    assert of_its_file([same, other], info) == [same]
    assert taken(pool(same, other), {"prompt": "x"}, begun_by=begun.served.identity) == 10
    same.has_failed("gone")
    assert of_its_file([same, other], info) == [same, other]
    assert of_its_file([other], info) == [other]


def test_another_model_is_no_choice_at_all() -> None:
    other = backend(4096, name="other")
    assert able([other], None) == []
    with pytest.raises(ApiError, match="serves another one now"):
        pool(other).take()
    assert pool(other, backend(4096)).take() is not None


def test_an_unknown_context_may_hold_everything() -> None:
    small, unknown = backend(4096), backend()
    assert roomy([small, unknown], 5000) == [unknown]
    assert roomy([small, unknown], 4096) == [small, unknown]
    assert roomy([], 5000) == []
