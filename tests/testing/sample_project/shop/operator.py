"""An operator that looks after shops: a kopf one, which knows nothing of tests."""

import kopf

registry = kopf.OperatorRegistry()


@kopf.on.create("apps", "v1", "deployments", labels={"shop": kopf.PRESENT}, id="open", registry=registry)
async def open_(patch, retry, **_):
    if retry == 0:
        raise kopf.TemporaryError("the landlord has not called back", delay=600)
    patch.metadata.annotations["shop/state"] = "open"


@kopf.timer("apps", "v1", "deployments", labels={"shop": kopf.PRESENT}, interval=3600, initial_delay=1800, id="count",
            registry=registry)
async def count(patch, annotations, **_):
    patch.metadata.annotations["shop/counted"] = str(int(annotations.get("shop/counted", "0")) + 1)
