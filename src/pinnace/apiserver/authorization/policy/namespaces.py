"""Roles in kube-system and kube-public, and every default binding (upstream: namespace_policy.go, policy.go)."""

from __future__ import annotations

# "namespace/name" -> rules
NAMESPACE_ROLES: dict[str, str] = {
    "kube-public/system:controller:bootstrap-signer": """
        get list watch: configmaps
        update: configmaps = cluster-info
        create patch update: events events.events.k8s.io
    """,
    "kube-system/extension-apiserver-authentication-reader": """
        get list watch: configmaps = extension-apiserver-authentication
    """,
    "kube-system/system::leader-locking-kube-controller-manager": """
        create get list update watch: leases.coordination.k8s.io leasecandidates.coordination.k8s.io
    """,
    "kube-system/system::leader-locking-kube-scheduler": """
        create get list update watch: leases.coordination.k8s.io leasecandidates.coordination.k8s.io
    """,
    "kube-system/system:controller:bootstrap-signer": """
        get list watch: secrets
    """,
    "kube-system/system:controller:cloud-provider": """
        create get list watch: configmaps
    """,
    "kube-system/system:controller:token-cleaner": """
        delete get list watch: secrets
        create patch update: events events.events.k8s.io
    """,
}

# ClusterRoleBinding of a cluster role's own name -> its subjects. `account` is a service account.
CLUSTER_ROLE_BINDINGS: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("group system:masters",),
    "system:basic-user": ("group system:authenticated",),
    "system:discovery": ("group system:authenticated",),
    "system:kube-controller-manager": ("user system:kube-controller-manager",),
    "system:kube-dns": ("account kube-system/kube-dns",),
    "system:kube-scheduler": ("user system:kube-scheduler",),
    "system:monitoring": ("group system:monitoring",),
    "system:node": (),      # the node authorizer speaks for nodes
    "system:node-proxier": ("user system:kube-proxy",),
    "system:public-info-viewer": ("group system:authenticated", "group system:unauthenticated"),
    "system:service-account-issuer-discovery": ("group system:serviceaccounts",),
    "system:volume-scheduler": ("user system:kube-scheduler",),
}

# (namespace, binding) -> (role, subjects)
ROLE_BINDINGS: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("kube-public", "system:controller:bootstrap-signer"): (
        "system:controller:bootstrap-signer",
        ("account kube-system/bootstrap-signer",),
    ),
    ("kube-system", "system::extension-apiserver-authentication-reader"): (
        "extension-apiserver-authentication-reader",
        ("user system:kube-controller-manager", "user system:kube-scheduler"),
    ),
    ("kube-system", "system::leader-locking-kube-controller-manager"): (
        "system::leader-locking-kube-controller-manager",
        (
            "user system:kube-controller-manager",
            "account kube-system/kube-controller-manager",
            "account kube-system/leader-election-controller",
        ),
    ),
    ("kube-system", "system::leader-locking-kube-scheduler"): (
        "system::leader-locking-kube-scheduler",
        ("user system:kube-scheduler", "account kube-system/kube-scheduler"),
    ),
    ("kube-system", "system:controller:bootstrap-signer"): (
        "system:controller:bootstrap-signer",
        ("account kube-system/bootstrap-signer",),
    ),
    ("kube-system", "system:controller:cloud-provider"): (
        "system:controller:cloud-provider",
        ("account kube-system/cloud-provider",),
    ),
    ("kube-system", "system:controller:token-cleaner"): (
        "system:controller:token-cleaner",
        ("account kube-system/token-cleaner",),
    ),
}
