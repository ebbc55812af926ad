"""Who stands behind a Service: EndpointSlices, and the Endpoints of old."""

from pinnace.controllers.endpoints.legacy import EndpointsController
from pinnace.controllers.endpoints.slices import EndpointSliceController

__all__ = ["EndpointSliceController", "EndpointsController"]
