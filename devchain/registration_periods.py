"""The registration and enactment periods of a subnet, in general epochs."""

from __future__ import annotations

from devchain import storage
from devchain.chain_types import SubnetData, SubnetState
from devchain.runtime import Runtime


def is_in_enactment(runtime: Runtime, subnet: SubnetData) -> bool:
    """Whether registration is over and only activation is still possible."""
    end = _registration_end(runtime, subnet)
    enactment = runtime.state.get(storage.SUBNET_ENACTMENT_EPOCHS)
    return end is not None and end < runtime.general_epoch <= end + enactment


def is_enactment_over(runtime: Runtime, subnet: SubnetData) -> bool:
    """Whether the subnet missed its last chance."""
    end = _registration_end(runtime, subnet)
    enactment = runtime.state.get(storage.SUBNET_ENACTMENT_EPOCHS)
    return end is not None and end + enactment < runtime.general_epoch


def _registration_end(runtime: Runtime, subnet: SubnetData) -> int | None:
    registered = runtime.state.find(storage.SUBNET_REGISTRATION_EPOCH, subnet.id)
    if subnet.state is not SubnetState.REGISTERED or registered is None:
        return None
    return registered + runtime.state.get(storage.SUBNET_REGISTRATION_EPOCHS)
