"""How long what a llama-server's devices hand on is under way between rigs.

llama.cpp reaches another host's cards by messages over TCP, in one queue for each helper (ggml-rpc,
ggml/src/ggml-rpc/ggml-rpc.cpp of the pinned llama.cpp, ggml-org/llama.cpp 0c1e57098):

- The hidden states go into a helper once and come back once, 2 crossings: whatever goes from one
  device to another of another host is fetched by the rig and sent on by it
  (``ggml_backend_rpc_buffer_cpy_tensor`` copies on one server only), so from helper to helper they
  cross twice as well.
- From card to card of one helper they stay there, but the rig says so and waits for the answer
  (``RPC_CMD_COPY_TENSOR``): a message there and one back.
- Each of its cards gets the mask of what each token may see, 2 bytes for each token of the context,
  as an input of its own (``ggml_backend_sched_split_graph``, ggml-backend.cpp).
- Graphs that are as the one before are not sent again (``RPC_CMD_GRAPH_RECOMPUTE``), and what else
  there is (places, numbers of rows) is small.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import GIGABIT
from heartcode_models.planner.choose import BackendPlan
from heartcode_models.units import MIB

_F32, _F16 = 4, 2
#: Seconds that a message of any size takes from one host to the other: two network cards, a switch
#: and two kernels, half of what ``ping`` shows between such hosts. An estimate, not measured.
LATENCY = 100e-6


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
        masks: How many masks are sent: one for each card that is lent.
    """

    hidden_states: int
    messages: int
    masks: int


def crossings(plan: BackendPlan) -> Crossings:
    """What crosses; nothing where all cards are in the rig."""
    lent = [len(list(cards)) for host, cards in groupby(card.host for card in plan.cards) if host]
    hidden_states = 2 * len(lent)
    inside = sum(cards - 1 for cards in lent)
    return Crossings(
        hidden_states=hidden_states, messages=hidden_states + 2 * inside, masks=sum(lent)
    )


def crossing_s(plan: BackendPlan, network: int, tokens: int = 1, context: int = 0) -> float:
    """Seconds for which `tokens` that are computed together are under way between rigs.

    Args:
        plan: Of the backend.
        network: Bytes/s between the rig and each helper.
        tokens: So many.
        context: Tokens that each of them may look back to.
    """
    model, over = plan.model, crossings(plan)
    hidden_state = _F32 * model.n_embd * model.streams
    size = tokens * (over.hidden_states * hidden_state + over.masks * _F16 * context)
    return over.messages * LATENCY + size / network
