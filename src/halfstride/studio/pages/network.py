"""The network page: a test image on its way through a run's model, layer by layer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from halfstride.studio.dependencies import Runs
from halfstride.studio.network import Network

router = APIRouter()


@router.get("/api/runs/{name}/network")
def read_network(runs: Runs, name: str, index: Annotated[int, Query(ge=0)] = 0) -> Network:
    """Every layer of a run's model for one test image: feature maps, shape, receptive field and MACs."""
    return runs.open(name).network(index)
