from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.fixture
def manifests():
    return DEPLOY


@pytest.fixture
async def shop(cluster):
    """The application, rolled out, in the test's own cluster and on its loop."""
    await cluster.apply(DEPLOY)
    return await cluster.rollout_status("deploy/shop")
