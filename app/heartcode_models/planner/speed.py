"""How fast one answer can come at most.

For each token of an answer all weights that it needs are read once, and little is computed: memory
is the limit. The cards of a group work in turn, as each waits for what the one before it makes of
the token (``-sm layer``), so their times add up:

    tokens/s = 1 / (sum over the cards: bytes of the layers read ÷ bandwidth of the card)

Where other rigs lend cards, what crosses the network for a token comes to that
(`network.crossing_s`). Of a mixture of experts a token reads those that it is given; experts in the
host's RAM are read over its memory bus, as one more term. Source: the memory bound of the roofline
model. An H100 answered with 88 tokens/s on one device and 84 on three of one with a 24B, and with
172 and 160 with a 30B-A3B: what splitting itself costs, 5 to 7 %, is not in the formula.
"""

from heartcode_models.planner.cards import GIGABIT
from heartcode_models.planner.choose import BackendPlan
from heartcode_models.planner.network import crossing_s
from heartcode_models.planner.vram import held_back

#: Bytes/s of a host whose memory is not known: one module of DDR3-1600, 8 bytes at a time
#: (PC3-12800, JESD79-3), as the boards of mining rigs have.
HOST_BANDWIDTH = 12_800_000_000


def tokens_per_second(plan: BackendPlan, network: int = GIGABIT) -> float | None:
    """The most tokens per second of one answer, at its beginning.

    `network` are the bytes/s to each host that lends cards. None where a card's bandwidth is not
    known, or where the CPU computes layers and is the limit.
    """
    model, settings = plan.model, plan.settings
    if settings.n_gpu_layers < model.all_layers or not all(card.bandwidth for card in plan.cards):
        return None
    seconds = model.experts_of(range(settings.n_cpu_moe), used=True) / HOST_BANDWIDTH
    seconds += crossing_s(plan, network)
    for share in plan.shares:
        away = held_back(share.layers, settings.n_cpu_moe)
        read = model.read_per_token(share.layers) - model.experts_of(away, used=True)
        seconds += read / share.card.bandwidth
    return 1 / seconds
