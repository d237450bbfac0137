"""The metrics and checks of a gateway."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.api.checks import HealthCheck
from mesh.api.measures import GatewayMeasures, RequestOutcome
from mesh.client.client import MeshClient
from subnet.metrics.page import Page
from subnet.metrics.swarm import fill_blocks, fill_traffic


class GatewayMetrics:
    """Reads what a gateway counts, and what its client knows of the network."""

    def __init__(
        self,
        measures: GatewayMeasures,
        client: MeshClient,
        *,
        find_uncovered: Callable[[], Sequence[tuple[int, int]]],
    ) -> None:
        self._measures = measures
        self._client = client
        self._find_uncovered = find_uncovered

    def list_checks(self) -> tuple[HealthCheck, ...]:
        """Return what a gateway needs to answer."""
        missing = ", ".join(f"{start}:{end}" for start, end in self._find_uncovered())
        detail = f"no server for blocks {missing}" if missing else "every block is served"
        return (HealthCheck("model", not missing, detail),)

    def fill(self, page: Page) -> None:
        """Put everything that is known into the page."""
        measures = self._measures
        page.add("mesh_num_requests_running", measures.running)
        page.add("mesh_num_requests_waiting", measures.waiting)
        page.add("mesh_prompt_tokens_total", measures.prompt_tokens)
        page.add("mesh_generation_tokens_total", measures.generated_tokens)
        page.add("mesh_reroutes_total", measures.reroutes)
        page.add("mesh_refills_total", measures.refills)
        page.add("mesh_replays_total", measures.replays)
        for result in RequestOutcome:
            page.add("mesh_requests_total", measures.results[result], result.value)
        page.add_histogram("mesh_time_to_first_token_seconds", measures.first_token)
        page.add_histogram("mesh_inter_token_latency_seconds", measures.between_tokens)
        page.add_histogram("mesh_e2e_request_latency_seconds", measures.request)
        fill_traffic(page, [self._client.host.traffic])
        servers = self._client.directory.list_servers()
        fill_blocks(page, servers, num_layers=self._client.config.num_layers)
