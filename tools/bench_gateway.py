#!/usr/bin/env python3
"""Measures what the gateway costs and what its routing brings, all in one run on this machine.

    make bench-gateway

The first token: how much later it comes through the whole chain (the role's nginx with njs, a rig's
proxy) than from a synthetic upstream, with and without the gateway's relay, beside LiteLLM's proxy;
and the CPU time that a token takes in all programs of both chains.

The caches: conversations that interleave, over two rigs of two real llama-servers with the
counting model. Of the prompt tokens that a perfect cache would have held, how many were reused,
with the gateway's and the rigs' own ways to choose, and with round robin or least connections.
In the same runs it is counted whether a request waited on one rig while another had a free slot.

The times are those of this machine; compare rows of one run, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_benchmark.asking import Server
from heartcode_models.cache import cache_directory

from tools.bench.conversations import Reuse, Shape, Turn, hold
from tools.bench.gateway import Chain, Gateway, Rig, balanced, chain, render
from tools.bench.llamas import Llama, Model, command
from tools.bench.measuring import (
    LATE_S,
    Upstream,
    allow_many_connections,
    first_token_ms,
    load,
    table,
)
from tools.bench.queueing import Queueing, stays
from tools.bench.relays import Direct, LiteLLM, free_ports, install_heartcode, install_litellm

_BACKENDS = 12  # a full rig
_STREAMS = 16
_MANY, _TOKENS = 100, 100  # for the cost of a token
_RIGS, _BACKENDS_EACH, _SLOTS_EACH = 2, 2, 2
_HOST_CACHE_MIB = 64  # holds all conversations
_SEED = 20
_LOGGED_WITHIN_S = 30


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the gateway chooses a rig (None: as the role has it) and a rig its backend."""

    name: str
    balancing: str | None
    policy: str


WAYS = (
    Way(name="HeartCode", balancing=None, policy="time_to_first_token"),
    Way(name="round robin", balancing="", policy="round_robin"),
    Way(name="least connections", balancing="least_conn;", policy="least_busy"),
)


def first_tokens(directory: Path, *, repeats: int, litellm: str | None) -> dict[str, Any]:
    """Return what each chain adds to the first token in ms, as (median, p95) by its name.

    Raises:
        SystemExit: when the upstream did not keep its time.
    """
    ports = free_ports(_BACKENDS)
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream(ports))
        urls = {
            "direct": Direct(ports).url,
        }
        chains = {
            "gateway + rig": stack.enter_context(chain(directory, ports)),
            "without its relay": stack.enter_context(chain(directory, ports, relay=False)),
        }
        urls |= {name: each.url for name, each in chains.items()}
        if litellm:
            LiteLLM.program = litellm
            relay = stack.enter_context(LiteLLM(directory, ports))
            relay.wait_until_ready("/health")
            urls[f"LiteLLM {LiteLLM.version}"] = relay.url
        for url in urls.values():
            load(url, streams=_STREAMS, tokens=20, rate=25)  # warm
        seen = {
            name: first_token_ms(url, streams=_STREAMS, repeats=repeats)
            for name, url in urls.items()
        }
        cpu_us = chain_costs(chains, rounds=repeats)
        late_s = upstream.end()
    if late_s > LATE_S:
        sys.exit(f"The upstream was {late_s * 1e3:.0f} ms late: these figures say nothing.")
    direct = seen.pop("direct")
    added = {
        name: [ms - bare for ms, bare in zip(times, direct, strict=True)]
        for name, times in seen.items()
    }
    return {"direct_ms": direct, "added_ms": added, "cpu_us": cpu_us}


def chain_costs(chains: Mapping[str, Chain], *, rounds: int) -> dict[str, list[float]]:
    """Return the CPU time of all of a chain's programs for each token, in µs, round by round."""
    costs: dict[str, list[float]] = {name: [] for name in chains}
    for _ in range(rounds):
        for name, measured in chains.items():
            before = measured.cpu_s()
            load(measured.url, streams=_MANY, tokens=_TOKENS, rate=25)
            costs[name].append((measured.cpu_s() - before) / (_MANY * _TOKENS) * 1e6)
    return costs


class Fleet:
    """Where the rigs of each run listen, and the gateway's site for them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, *self.rig_ports = free_ports(1 + _RIGS)
        rendered = directory / "site"
        rendered.mkdir()
        slots = _BACKENDS_EACH * _SLOTS_EACH
        self.site = render(rendered, port=self.port, rigs=dict.fromkeys(self.rig_ports, slots))

    @contextmanager
    def running(
        self, way: Way, server: Sequence[str], model: Model, *, cache_ram_mib: int
    ) -> Iterator[tuple[Gateway, list[Rig]]]:
        """Run fresh llama-servers, rigs and a gateway."""
        settings = {
            "HEARTCODE_POLICY": way.policy,
            "HEARTCODE_HOST_CACHE_TOKENS": str(model.tokens_in(cache_ram_mib)),
        }
        site = self.site if way.balancing is None else balanced(self.site, way.balancing)
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.directory)))
            llamas = [
                stack.enter_context(
                    Llama(
                        directory,
                        server,
                        model.path,
                        slots=_SLOTS_EACH,
                        cache_ram_mib=cache_ram_mib,
                    )
                )
                for _ in range(_RIGS * _BACKENDS_EACH)
            ]
            for llama in llamas:
                llama.wait_until_serving()
            rigs = [
                stack.enter_context(
                    Rig(
                        directory,
                        [llama.port for llama in llamas[number::_RIGS]],
                        name=f"rig{number + 1}",
                        port=port,
                        slots=_SLOTS_EACH,
                        settings=settings,
                    )
                )
                for number, port in enumerate(self.rig_ports)
            ]
            for rig in rigs:
                rig.wait_until_serving()
            gateway = stack.enter_context(Gateway(directory, site, port=self.port))
            gateway.wait_until_serving()
            yield gateway, rigs


def talk(
    fleet: Fleet, way: Way, server: Sequence[str], model: Model, shape: Shape, *, cache_ram_mib: int
) -> dict[str, Any]:
    """Hold the conversations in one way; return what was seen."""
    with fleet.running(way, server, model, cache_ram_mib=cache_ram_mib) as (gateway, rigs):
        begun = time.monotonic()
        turns = hold(Server(url=gateway.url, model="bench"), shape, mark="bench", seed=_SEED)
        seconds = time.monotonic() - begun
        queueing = _queueing(turns, rigs)
    reuse = Reuse.of(turns)
    print(
        f"  {way.name}, {shape.at_a_time} at a time, host cache {cache_ram_mib} MiB:"
        f" {reuse.share:.1%} in {seconds:.0f} s",
        file=sys.stderr,
    )
    return {
        "way": way.name,
        "at_a_time": shape.at_a_time,
        "cache_ram_mib": cache_ram_mib,
        "share": reuse.share,
        **asdict(reuse),
        **asdict(queueing),
        "seconds": seconds,
    }


def _queueing(turns: Sequence[Turn], rigs: Sequence[Rig]) -> Queueing:
    deadline = time.monotonic() + _LOGGED_WITHIN_S
    queued = {rig.name: rig.answered() for rig in rigs}
    # A rig logs a request when the client has had its last byte.
    while sum(map(len, queued.values())) < len(turns):
        if time.monotonic() > deadline:
            raise RuntimeError("not all turns are in the rigs' logs")
        time.sleep(0.1)
        queued = {rig.name: rig.answered() for rig in rigs}
    slots = dict.fromkeys(queued, _BACKENDS_EACH * _SLOTS_EACH)
    return Queueing.of(stays(turns, queued), slots)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="of each first-token figure")
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument(
        "--at-a-time",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[4, 12],
        metavar="N[,N...]",
        help="requests at a time for the caches; there are 8 slots (default 4,12)",
    )
    parser.add_argument(
        "--dead-weight-mib", type=int, default=8, help="of the model: how slowly it reads"
    )
    parser.add_argument("--no-litellm", action="store_true", help="leave it out")
    parser.add_argument("--only", choices=["first-token", "caches"], help="leave the other out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def measure_first_tokens(directory: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Install what is needed, and measure."""
    litellm = None if given.no_litellm else install_litellm(cache_directory())
    if not litellm:
        print("LiteLLM is left out.", file=sys.stderr)
    return first_tokens(directory, repeats=given.repeats, litellm=litellm)


def measure_caches(directory: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Hold the conversations in every way, with and without llama-server's host cache."""
    server = command()
    model = Model(directory / "counting.gguf", dead_weight_mib=given.dead_weight_mib)
    fleet = Fleet(directory)
    conditions = [(at_a_time, _HOST_CACHE_MIB) for at_a_time in given.at_a_time]
    conditions.append((given.at_a_time[0], 0))
    return [
        talk(
            fleet,
            way,
            server,
            model,
            Shape(conversations=given.conversations, turns=given.turns, at_a_time=at_a_time),
            cache_ram_mib=cache_ram_mib,
        )
        for at_a_time, cache_ram_mib in conditions
        for way in WAYS
    ]


def report_first_tokens(figures: dict[str, Any]) -> str:
    """Return the table; the first row is what the others are compared with."""
    added = figures["added_ms"]
    base = next(iter(added.values()))[0]
    rows = [["chain", f"adds to the first token, ms (median, p95; {_STREAMS} streams)", "÷ first"]]
    rows += [
        [name, f"{median:.1f}, {late:.1f}", f"{median / base:.1f}"]
        for name, (median, late) in added.items()
    ]
    return table(rows)


def report_costs(costs: Mapping[str, Sequence[float]]) -> str:
    """Return the table; ratios are taken round by round, as all see the same machine then."""
    base = list(costs.values())[-1]
    rows = [["chain", "CPU µs per token", "÷ without its relay"]]
    for name, values in costs.items():
        ratios = [mine / other for mine, other in zip(values, base, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([name, f"{statistics.median(values):.1f}", spread])
    return table(rows)


def report_caches(figures: Sequence[dict[str, Any]]) -> str:
    """Return the table; times relative to HeartCode's in the same conditions."""
    rows = [
        [
            *("at a time", "host cache", "chosen by", "reused of what a perfect cache has"),
            *("first token ÷ HeartCode's", "queued", "beside a rig with a free slot"),
            "for the sake of a cache",
        ]
    ]
    base: dict[tuple[int, int], float] = {}
    for seen in figures:
        key = (seen["at_a_time"], seen["cache_ram_mib"])
        base.setdefault(key, seen["first_token_s"])
        rows.append(
            [
                str(seen["at_a_time"]),
                f"{seen['cache_ram_mib']} MiB" if seen["cache_ram_mib"] else "none",
                seen["way"],
                f"{seen['share']:.1%}",
                f"{seen['first_token_s'] / base[key]:.2f}",
                *(str(seen[name]) for name in ("queued", "despite_free", "by_choice")),
            ]
        )
    return table(rows)


def main() -> None:
    """Measure, and print the tables."""
    given = options()
    allow_many_connections(_MANY)
    Rig.python = install_heartcode(cache_directory())
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        if given.only != "caches":
            figures["first_token"] = measure_first_tokens(directory, given)
        if given.only != "first-token":
            figures["caches"] = measure_caches(directory, given)
    if "first_token" in figures:
        print(report_first_tokens(figures["first_token"]), end="\n\n")
        print(report_costs(figures["first_token"]["cpu_us"]), end="\n\n")
    if "caches" in figures:
        print(report_caches(figures["caches"]), end="\n\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}.")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
