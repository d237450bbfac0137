"""A layer's MLP: a single one, or experts, of which a router chooses some for each row.

**Alone and in a crowd.** Which experts a row takes depends on its own numbers only, each expert's
products go through the caller's ``multiply``, and a row adds its experts up by their number. So a
row has the same bits beside any others as long as ``multiply`` gives it the same.

**Challenges** weigh the experts at the edge of the choice smoothly. Two of them may be nearly as
likely for a row; honest machines, which differ in the last bits, would now and then choose
otherwise, answer otherwise, and be refuted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mesh.model.family import ExpertsConfig
from mesh.model.quantise import Matrix, Multiply
from mesh.model.weights import LayerWeights

EDGE_WIDTH = 0.25
"""Of a router's logits: within it, around the edge of the choice, challenges weigh smoothly."""


def run_mlp(
    experts: ExpertsConfig | None,
    weights: LayerWeights,
    x: Tensor,
    multiply: Multiply,
    *,
    is_smooth: bool,
) -> Tensor:
    """Return the MLP's output for rows ``x`` [rows, hidden], normed already.

    ``is_smooth`` is for challenges: the output is then continuous in the weights.
    """
    if experts is None or weights.router is None:
        inner = multiply(x, weights.gate_up, weights.gate_up_bias)
        return multiply(_gate(inner), weights.down, weights.down_bias)
    logits = multiply(x, weights.router, None)
    shares = weigh_experts(logits, experts, is_smooth=is_smooth).to(x.dtype)
    return _mix_experts(weights.gate_up, weights.down, x, shares, multiply)


def weigh_experts(logits: Tensor, experts: ExpertsConfig, *, is_smooth: bool) -> Tensor:
    """Return how much of each expert a row takes, [rows, experts]; of most it is 0.

    ``is_smooth`` weighs by how far a logit is above the middle between the last that is chosen
    and the first that is not, from 0 to 1 within ``EDGE_WIDTH``.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    likely = wide.softmax(-1)
    if is_smooth and experts.chosen < experts.count:
        ordered = wide.sort(descending=True).values
        edge = ordered[:, experts.chosen - 1 : experts.chosen + 1].mean(-1, keepdim=True)
        shares = likely * ((wide - edge) / EDGE_WIDTH + 0.5).clamp(0, 1)
    else:
        top, chosen = likely.topk(experts.chosen)
        shares = torch.zeros_like(likely).scatter_(1, chosen, top)
    return shares / shares.sum(-1, keepdim=True) if experts.is_normalised else shares


def _mix_experts(
    gate_up: Matrix, down: Matrix, x: Tensor, shares: Tensor, multiply: Multiply
) -> Tensor:
    mixed = torch.zeros_like(x)
    for expert in shares.any(0).nonzero().flatten().tolist():
        share = shares[:, expert]
        rows = share.nonzero().flatten()
        inner = _gate(multiply(x[rows], gate_up[expert], None))
        output = multiply(inner, down[expert], None)
        mixed.index_add_(0, rows, output.mul_(share[rows].unsqueeze(1)))
    return mixed


def _gate(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate, inplace=True).mul_(up)
