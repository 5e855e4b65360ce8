"""Cards and rigs: what is known of mining cards, and what a rig consists of."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from heartcode_models.units import MIB

#: Of "6 GB" on the box this much is left to programs; the rest is the driver's. Measured: P106-100
#: 5999 of 6144 MiB, P104-100 8116 of 8192. The smaller part, so that an unknown card is not
#: overrated.
_USABLE = 0.975
#: Of host RAM as sold this much is left after firmware and kernel.
_RAM_USABLE = 0.95


@dataclass(frozen=True, kw_only=True)
class HostShare:
    """Host RAM that CUDA takes for each process, in bytes, once it has read long prompts.

    Attributes:
        private: What it allocates: its own memory and the kernels, loaded when first needed.
        pinned: What it shares with the card, beside the buffers that llama.cpp asks for.
        control: What the driver maps through /dev/nvidiactl, which is host memory too
            (``nvidia_mmap_helper``, nv-mmap.c of NVIDIA's open kernel modules).
        each_slot: What every further slot adds: batches of other sizes have other kernels.
    """

    private: int
    pinned: int
    control: int
    each_slot: int

    def of(self, slots: int) -> int:
        """Bytes with so many slots."""
        return self.private + self.pinned + self.control + (slots - 1) * self.each_slot


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What cards of one generation have in common.

    Attributes:
        name: As NVIDIA calls it.
        own: Bytes of VRAM that CUDA takes for itself: its context, the loaded kernels, cuBLAS.
        host: What it takes of the host's RAM.
        fast_f16: Whether llama.cpp multiplies in f16 there (``fast_fp16_hardware_available``,
            ggml-cuda/common.cuh).
    """

    name: str
    own: int
    host: HostShare
    fast_f16: bool


#: An H100 with driver 580, CUDA 12.4 and kernels for 61. VRAM: 814 to 825 MiB beside weights, KV
#: cache and computing, less the pool; nvidia-smi counts whole MiB. It has 13 times as many
#: multiprocessors as a P106. Host RAM: most with one slot is taken where a ubatch is small, as
#: llama.cpp then makes CUDA graphs of prompts too.
HOPPER = Generation(
    name="Hopper",
    own=814 * MIB,
    host=HostShare(private=315 * MIB, pinned=12 * MIB, control=70 * MIB, each_slot=30 * MIB),
    fast_f16=True,
)
#: VRAM: 100 to 150 MiB by observation, and 16 for cuBLAS (4 of them are its
#: ``cublas_workspace_sizes``, ggml-cuda/common.cuh). Host RAM: taken from the H100 with a ubatch of
#: 512 and without CUDA graphs, which llama.cpp makes from Volta on
#: (``ggml_cuda_graph_set_enabled``, ggml-cuda.cu). Neither was measured on a Pascal card yet.
PASCAL = Generation(
    name="Pascal",
    own=166 * MIB,
    host=replace(HOPPER.host, private=275 * MIB, each_slot=45 * MIB),
    fast_f16=False,
)
#: Begins the name of a card that is known by its PCI address alone, until a driver tells its UUID.
UNTOLD = "PCI-"
#: Stands between the UUIDs of a backend's cards, in the order in which its llama-server sees them.
AND = "+"
#: Stands between the UUID of a card and the host that lends it, where that is another one.
AT = "@"
#: llama.cpp's cpu backend: no card, and no CUDA.
CPU = Generation(
    name="CPU",
    own=0,
    host=HostShare(private=0, pinned=0, control=0, each_slot=0),
    fast_f16=False,
)
#: What is not listed is planned for as a Pascal card, and the plan says so.
UNKNOWN = Generation(name="", own=PASCAL.own, host=PASCAL.host, fast_f16=True)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU.

    Attributes:
        name: As NVIDIA calls it, without "NVIDIA" and "GeForce".
        vram: Bytes that programs can have.
        bandwidth: Bytes/s of VRAM, 0 where it is not known; it limits the tokens per second.
        link: Bytes/s of its PCIe link, 0 where it is not known.
        uuid: As nvidia-smi prints it, "" where it is not known.
        generation: On which CUDA's own share depends.
        capability: Compute capability without the dot ("61"), "" where it is not known.
        host: Inventory name of the host that lends it; "" for a card of the rig's own.
    """

    name: str
    vram: int
    bandwidth: int = 0
    link: int = 0
    uuid: str = ""
    generation: Generation = UNKNOWN
    capability: str = ""
    host: str = ""


def uuids_of(backend: str) -> tuple[str, ...]:
    """The UUIDs of a backend's cards, from its own name: one for a card that is alone.

    Those that another host lends have its name behind them (`host_of`).
    """
    return tuple(backend.split(AND))


def host_of(uuid: str) -> str:
    """The host that lends a card, by its inventory name; "" for a card of the rig's own."""
    return uuid.partition(AT)[2]


def own_uuids(backend: str) -> tuple[str, ...]:
    """The UUIDs of those of a backend's cards that are in its own rig."""
    return tuple(uuid for uuid in uuids_of(backend) if not host_of(uuid))


#: Bytes/s between two hosts where nobody says more: gigabit Ethernet. Of 1538 bytes on the wire TCP
#: carries 1448 (IEEE 802.3 frames of 1500 bytes, preamble and gap counted; time stamps, RFC 7323):
#: 112 MiB/s.
GIGABIT = 110 * MIB


@dataclass(frozen=True, kw_only=True)
class Helper:
    """A host that serves nothing itself and lends all of its cards to one rig.

    Attributes:
        name: Its inventory name.
        cards: In the order in which its RPC server lists them; each has the helper as its `host`.
        ram: Bytes of its RAM (MemTotal).
    """

    name: str
    cards: tuple[Card, ...]
    ram: int


@dataclass(frozen=True, kw_only=True)
class Rig:
    """One host.

    Attributes:
        name: Its inventory name.
        cards: In the order of their backends.
        ram: Bytes of host RAM (MemTotal).
        cores: CPU threads of the host.
        disk: Free bytes where models lie, None where it is not known.
        assumed: What was not said or measured and is taken to be so, a sentence each.
        helpers: The hosts that lend it their cards, in the order in which they are named.
        network: Bytes/s between it and each of these.
    """

    name: str
    cards: tuple[Card, ...]
    ram: int
    cores: int
    disk: int | None = None
    assumed: tuple[str, ...] = ()
    helpers: tuple[Helper, ...] = ()
    network: int = GIGABIT


@dataclass(frozen=True, kw_only=True)
class _Known:
    vram_mib: int
    bandwidth_gb: float
    generation: Generation = PASCAL


#: P106-100 and P104-100 as measured by their owners with CUDA programs; the others as nvidia-smi
#: lists their memory, with the bandwidth of the data sheet. What a rig itself reports overrules
#: this.
_KNOWN = {
    "P106-090": _Known(vram_mib=3019, bandwidth_gb=192),
    "P106-100": _Known(vram_mib=5999, bandwidth_gb=167),
    "P104-100": _Known(vram_mib=8116, bandwidth_gb=283),
    "P102-100": _Known(vram_mib=5059, bandwidth_gb=440),
    "GTX 1060 3GB": _Known(vram_mib=3019, bandwidth_gb=192),
    "GTX 1060 6GB": _Known(vram_mib=6072, bandwidth_gb=192),
    "GTX 1070": _Known(vram_mib=8114, bandwidth_gb=256),
    "GTX 1070 Ti": _Known(vram_mib=8114, bandwidth_gb=256),
    "GTX 1080": _Known(vram_mib=8114, bandwidth_gb=320),
    "GTX 1080 Ti": _Known(vram_mib=11172, bandwidth_gb=484),
}

#: What is named as a card that would do, smallest first.
MINING_CARDS = ("P106-090", "P102-100", "P106-100", "P104-100", "GTX 1080 Ti")

#: The link of these cards without a riser: four lanes of PCIe 1.0 at most, measured 1.7 and 0.8
#: GB/s.
_SLOT_LINK = {"P106-100": 1_700_000_000, "P104-100": 800_000_000}
X1_LINK = 250_000_000


def _key(name: str) -> str:
    return re.sub(r"NVIDIA|GEFORCE|[^A-Z0-9]", "", name.upper())


_BY_KEY = {_key(name): name for name in _KNOWN}


def _known_name(name: str) -> str | None:
    """The name of a known card; people leave GTX out."""
    key = _key(name)
    return _BY_KEY.get(key) or _BY_KEY.get(f"GTX{key}")


#: How the names of other cards begin, as `_key` writes them.
_GENERATIONS = {
    r"GTX10\d\d|P10[246]\d|TESLAP40?$|QUADROP\d": PASCAL,
    r"G?H[12]00": HOPPER,
}


def generation_of(name: str) -> Generation:
    """The generation of a card by its name, `UNKNOWN` if that does not tell."""
    key = _key(name)
    return next((known for form, known in _GENERATIONS.items() if re.match(form, key)), UNKNOWN)


def nominal_vram(gigabytes: float) -> int:
    """Bytes that programs can have of a card sold as `gigabytes` GB."""
    return int(gigabytes * 1024 * _USABLE) * MIB


def nominal_ram(gigabytes: float) -> int:
    """Bytes of MemTotal on a host sold with `gigabytes` GB."""
    return int(gigabytes * 1024 * _RAM_USABLE) * MIB


def known_cards() -> tuple[str, ...]:
    """The names that need no size."""
    return tuple(_KNOWN)


#: How NVIDIA's names begin, as `_key` writes them, and those of cards without one.
_LIKE_A_CARD = re.compile(r"CARD|GPU|GTX|RTX|GTS?\d|TITAN|TESLA|QUADRO|CMP|[PMKTVALHB]\d|G?H\d")
_FOREIGN = re.compile(r"(?:AMD)?(?:RX|RADEON|VEGA|INSTINCT|MI\d)|(?:INTEL)?ARC")


#: The same of those that are too old. Of a Titan X that is a GTX, NVIDIA's next one is none.
_OLD = re.compile(
    r"GTX?[4-9]\d\d(?!\d)|GTXTITAN|TITAN(?:BLACK|Z)$|(?:TESLA)?(?:[CKM]\d\d[CMX]?|P100)(?!\d)"
    r"|(?:QUADRO)?(?:[KM]\d{3,4}[DM]?(?!\d)|GP100)"
)
#: With dp4a, on which llama.cpp's quantised kernels rest.
_OLDEST_CAPABILITY = 61


def is_old(name: str) -> bool:
    """Whether a card is too old for llama.cpp's kernels by its name."""
    return _OLD.match(_key(name)) is not None


def is_too_old(card: Card) -> bool:
    """The same by its compute capability, where that is known."""
    return bool(card.capability) and int(card.capability) < _OLDEST_CAPABILITY


def is_named_like_a_card(name: str) -> bool:
    """Whether a name that is not listed may be that of one of NVIDIA's cards."""
    return _LIKE_A_CARD.match(_key(name)) is not None


def is_foreign(name: str) -> bool:
    """Whether a name is that of another maker's card."""
    return _FOREIGN.match(_key(name)) is not None


def similar_cards(name: str) -> tuple[str, ...]:
    """Known cards that may be meant by a name that is not known, likeliest first."""
    key = _key(name)
    begun = [known for known in _BY_KEY if len(key) > 2 and known.startswith(key)]  # noqa: PLR2004
    close = get_close_matches(key, _BY_KEY, n=2, cutoff=0.75)
    return tuple(_BY_KEY[known] for known in dict.fromkeys([*begun, *close]))[:3]


def make_card(
    name: str,
    *,
    vram: int | None = None,
    gigabytes: float | None = None,
    link: int = 0,
    uuid: str = "",
    capability: str = "",
) -> Card | None:
    """A card by name and what is known of it; None where its VRAM is neither given nor known.

    Args:
        name: In any spelling; "NVIDIA GeForce GTX 1070" is "GTX 1070".
        vram: Measured bytes.
        gigabytes: What is written on the box; a known card of another size is of a kind of its own.
        link: Measured bytes/s, or 0.
        uuid: As nvidia-smi prints it.
        capability: Its compute capability, without the dot.
    """
    found = _known_name(name)
    if found is None and gigabytes is not None:
        found = _known_name(f"{name} {gigabytes:g}GB")
    known = _KNOWN[found] if found else None
    if vram is None:
        if known and (gigabytes is None or round(known.vram_mib / 1024) == gigabytes):
            vram = known.vram_mib * MIB
        elif gigabytes is not None:
            vram = nominal_vram(gigabytes)
        else:
            return None
    label = found or " ".join(name.replace("NVIDIA", "").replace("GeForce", "").split())
    if known is None or round(known.vram_mib / 1024) != round(vram / MIB / 1024):
        label = f"{label} {vram / MIB / 1024:.0f}GB" if "GB" not in label else label
    slot = _SLOT_LINK.get(found or "", 0)
    return Card(
        name=label,
        vram=vram,
        bandwidth=int(known.bandwidth_gb * 1e9) if known else 0,
        link=min(link, slot) if link and slot else link or slot,
        uuid=uuid,
        generation=known.generation if known else generation_of(name),
        capability=capability,
    )
