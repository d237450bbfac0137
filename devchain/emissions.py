"""The units that a general epoch pays, and each subnet's share of them."""

from __future__ import annotations

from devchain import storage
from devchain.balances import deposit
from devchain.chain_types import ONE, DistributionData, SubnetState
from devchain.fixed_point import percent_div, sigmoid_decreasing, to_float
from devchain.runtime import EPOCHS_PER_YEAR, TREASURY_ACCOUNT, Runtime

MIN_YEARLY_EMISSION = 75_000e18
MAX_YEARLY_EMISSION = 100_000e18
TREASURY_SHARE = 0.2


def store_emission_weights(runtime: Runtime) -> None:
    """Fix this general epoch's emissions and shares; pay the treasury."""
    weights = compute_subnet_weights(runtime)
    if not weights:
        return
    validators, treasury = compute_emissions(runtime)
    deposit(runtime, TREASURY_ACCOUNT, treasury)
    data = DistributionData(validators, weights)
    runtime.state.put(storage.FINAL_SUBNET_EMISSION_WEIGHTS, runtime.general_epoch, value=data)


def compute_emissions(runtime: Runtime) -> tuple[int, int]:
    """Return units for validators and for the treasury: less when more nodes are active."""
    state = runtime.state
    most = state.get(storage.MAX_SUBNETS) * state.get(storage.MAX_SUBNET_NODES)
    utilisation = min(state.get(storage.TOTAL_ACTIVE_NODES) / most, 1.0)
    bend = sigmoid_decreasing(
        utilisation,
        midpoint=to_float(state.get(storage.INFLATION_SIGMOID_MIDPOINT)),
        steepness=float(state.get(storage.INFLATION_SIGMOID_STEEPNESS)),
    )
    yearly = MIN_YEARLY_EMISSION + (MAX_YEARLY_EMISSION - MIN_YEARLY_EMISSION) * bend
    treasury = yearly * TREASURY_SHARE
    return int((yearly - treasury) / EPOCHS_PER_YEAR), int(treasury / EPOCHS_PER_YEAR)


def compute_subnet_weights(runtime: Runtime) -> dict[int, int]:
    """Return each running subnet's share: delegated stake, electable nodes and net flow.

    Where the network has no delegated stake at all, 0/0 is not a number and the
    runtime's cast makes every weight 0: only proposers are paid then.
    """
    state = runtime.state
    running = [
        subnet.id
        for _, subnet in state.items(storage.SUBNETS_DATA)
        if subnet.state is not SubnetState.REGISTERED or subnet.start_epoch <= runtime.general_epoch
    ]
    flows = _net_flow_shares(runtime, running)
    total_delegated = state.get(storage.TOTAL_DELEGATE_STAKE)
    total_electable = state.get(storage.TOTAL_ELECTABLE_NODES)
    if not total_delegated or not total_electable:
        return dict.fromkeys(running, 0)
    factors = state.get(storage.SUBNET_WEIGHT_FACTORS)
    power = to_float(state.get(storage.SUBNET_DISTRIBUTION_POWER))
    raised: dict[int, float] = {}
    for subnet_id in running:
        delegated = state.get(storage.TOTAL_SUBNET_DELEGATE_STAKE_BALANCE, subnet_id)
        electable = state.get(storage.TOTAL_SUBNET_ELECTABLE_NODES, subnet_id)
        weight = delegated / total_delegated * to_float(factors.delegate_stake)
        weight += electable / total_electable * to_float(factors.node_count)
        weight += to_float(flows[subnet_id]) * to_float(factors.net_flow)
        raised[subnet_id] = min(max(weight, 0.0), 1.0) ** power
    total = sum(raised.values())
    if not total:
        return dict.fromkeys(running, 0)
    return {subnet_id: int(value / total * ONE) for subnet_id, value in raised.items()}


def _net_flow_shares(runtime: Runtime, running: list[int]) -> dict[int, int]:
    """Take every running subnet's net flow and share it out above the lowest."""
    state, item = runtime.state, storage.SUBNET_NET_FLOW
    flows = {subnet_id: state.take(item, subnet_id) or 0 for subnet_id in running}
    lowest = min(flows.values(), default=0)
    total = sum(flow - lowest for flow in flows.values())
    return {subnet_id: percent_div(flow - lowest, total) for subnet_id, flow in flows.items()}
