"""Which Pinnace this is, and which Kubernetes it is."""

__version__ = "0.1.0"

KUBERNETES_MAJOR = "1"
KUBERNETES_MINOR = "36"
KUBERNETES_VERSION = "v1.36.0"
