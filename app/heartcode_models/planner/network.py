"""How long what a llama-server's devices hand on is under way between rigs.

llama.cpp reaches another host's cards by messages over TCP, in one queue for each helper (ggml-rpc,
ggml/src/ggml-rpc/ggml-rpc.cpp of the pinned llama.cpp, ggml-org/llama.cpp 0c1e57098):

- The hidden states go into a helper once and come back once, 2 crossings: whatever goes from one
  device to another of another host is fetched by the rig and sent on by it
  (``ggml_backend_rpc_buffer_cpy_tensor`` copies on one server only), so from helper to helper they
  cross twice as well.
- From card to card of one helper they stay there, but the rig says so and waits for the answer
  (``RPC_CMD_COPY_TENSOR``): a message there and one back.
- Each of its cards gets inputs of its own (``ggml_backend_sched_split_graph``, ggml-backend.cpp):
  the mask of what each token may see, 2 bytes for each token of the context, and the matrices that
  rotate K and V for a quantised cache, with each token anew (80 KiB for heads of 128, more than any
  hidden state).
- A graph that is as the one before is not sent again (``RPC_CMD_GRAPH_RECOMPUTE``): once for each
  batch of a prompt, and in an answer only where the context has grown by 256 tokens.

Counted on the wire for one and two devices of a helper (SmolLM2-135M, q8_0): bytes agree to 1 %,
and as many messages are waited for (tests/unit/models/planner/test_over_rigs.py).
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import GIGABIT
from heartcode_models.planner.choose import BackendPlan
from heartcode_models.planner.compute_graph import rotation_widths
from heartcode_models.units import MIB

_F32, _F16 = 4, 2
#: Seconds that a message of any size takes from one host to the other: two network cards, a switch
#: and two kernels, half of what ``ping`` shows between such hosts. An estimate, not measured.
LATENCY = 100e-6
#: Bytes for each token that a lent card is told: its position, and where its K and V go.
_PLACES = 4 + 8 + 8
#: Bytes with which its inputs are described, 8 of 317 on the first card and 6 on each further one.
_TOLD = 8 * 317
#: Bytes of a layer's part of a graph; 494 kB were counted for 30 layers of a Llama.
_GRAPH_OF_A_LAYER = 16_500


def network_of(mib_s: Any) -> int:
    """Bytes/s of ``llama_server_network_mib_s``, a gigabit where it is not set.

    Raises:
        ModelError: it is no number of MiB/s.
    """
    if mib_s in (None, ""):
        return GIGABIT
    if not str(mib_s).isdecimal() or int(mib_s) < 1:
        raise ModelError(
            f"llama_server_network_mib_s must be a whole number of MiB/s, at least 1, not {mib_s!r}"
        )
    return int(mib_s) * MIB


@dataclass(frozen=True, kw_only=True)
class Crossings:
    """What of a backend goes over the network for the tokens that are computed together.

    Attributes:
        hidden_states: How often they cross, all helpers together.
        messages: How many messages are waited for one after the other.
        cards: How many cards are lent.
        layers: How many layers are on them.
    """

    hidden_states: int
    messages: int
    cards: int
    layers: int


def crossings(plan: BackendPlan) -> Crossings:
    """What crosses; nothing where all cards are in the rig."""
    lent = [len(list(cards)) for host, cards in groupby(card.host for card in plan.cards) if host]
    hidden_states = 2 * len(lent)
    inside = sum(cards - 1 for cards in lent)
    return Crossings(
        hidden_states=hidden_states,
        messages=hidden_states + 2 * inside,
        cards=sum(lent),
        layers=sum(len(share.layers) for share in plan.shares if share.card.host),
    )


def crossing_bytes(plan: BackendPlan, tokens: int = 1, context: int = 0) -> int:
    """Bytes that cross for `tokens` that are computed together; one is a token of an answer.

    Args:
        plan: Of the backend.
        tokens: So many.
        context: Tokens that each of them may look back to; llama.cpp takes the next 256.
    """
    model, over = plan.model, crossings(plan)
    hidden_state = _F32 * model.n_embd * model.streams
    cells = -(-max(context, tokens) // 256) * 256
    k, v = rotation_widths(model, plan.settings.kv_type)
    rotations = _F32 * (k * k + v * v) * (2 if model.sliding_window else 1)
    each = rotations + _TOLD + tokens * (_F16 * cells + _PLACES)
    graphs = over.layers * _GRAPH_OF_A_LAYER if tokens > 1 else 0
    return tokens * over.hidden_states * hidden_state + over.cards * each + graphs


def crossing_s(plan: BackendPlan, network: int, tokens: int = 1, context: int = 0) -> float:
    """Seconds for which `tokens` that are computed together are under way between rigs.

    `network` are the bytes/s between the rig and each helper; the others as of `crossing_bytes`.
    """
    waiting = crossings(plan).messages * LATENCY
    return waiting + crossing_bytes(plan, tokens, context) / network
