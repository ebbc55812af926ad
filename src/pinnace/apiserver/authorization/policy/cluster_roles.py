"""The roles of users, components and nodes (upstream bootstrappolicy, policy.go)."""

from __future__ import annotations

CLUSTER_ROLES: dict[str, str] = {
    "cluster-admin": """
        *: *.*
        *: /*
    """,
    "system:aggregate-to-admin": """
        create: localsubjectaccessreviews.authorization.k8s.io
        create delete deletecollection get list patch update watch: rolebindings.rbac.authorization.k8s.io
                    roles.rbac.authorization.k8s.io
    """,
    "system:aggregate-to-edit": """
        get list watch: pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy
        impersonate: serviceaccounts
        create delete deletecollection patch update: pods pods/attach pods/exec pods/portforward pods/proxy
                    configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale
                    secrets serviceaccounts services services/proxy events events.events.k8s.io
                    daemonsets.apps deployments.apps deployments.apps/rollback deployments.apps/scale
                    replicasets.apps replicasets.apps/scale statefulsets.apps statefulsets.apps/scale
                    horizontalpodautoscalers.autoscaling cronjobs.batch jobs.batch daemonsets.extensions
                    deployments.extensions deployments.extensions/rollback deployments.extensions/scale
                    ingresses.extensions networkpolicies.extensions replicasets.extensions
                    replicasets.extensions/scale replicationcontrollers.extensions/scale
                    poddisruptionbudgets.policy ingresses.networking.k8s.io
                    networkpolicies.networking.k8s.io resourceclaims.resource.k8s.io
                    resourceclaimtemplates.resource.k8s.io
        create: pods/eviction serviceaccounts/token
        create delete deletecollection get list patch update watch: leases.coordination.k8s.io
    """,
    "system:aggregate-to-view": """
        get list watch: configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods
                    replicationcontrollers replicationcontrollers/scale serviceaccounts services
                    services/status bindings limitranges namespaces/status pods/log pods/status
                    replicationcontrollers/status resourcequotas resourcequotas/status namespaces events
                    events.events.k8s.io endpointslices.discovery.k8s.io controllerrevisions.apps
                    daemonsets.apps daemonsets.apps/status deployments.apps deployments.apps/scale
                    deployments.apps/status replicasets.apps replicasets.apps/scale replicasets.apps/status
                    statefulsets.apps statefulsets.apps/scale statefulsets.apps/status
                    horizontalpodautoscalers.autoscaling horizontalpodautoscalers.autoscaling/status
                    cronjobs.batch cronjobs.batch/status jobs.batch jobs.batch/status daemonsets.extensions
                    daemonsets.extensions/status deployments.extensions deployments.extensions/scale
                    deployments.extensions/status ingresses.extensions ingresses.extensions/status
                    networkpolicies.extensions replicasets.extensions replicasets.extensions/scale
                    replicasets.extensions/status replicationcontrollers.extensions/scale
                    poddisruptionbudgets.policy poddisruptionbudgets.policy/status
                    ingresses.networking.k8s.io ingresses.networking.k8s.io/status
                    networkpolicies.networking.k8s.io resourceclaims.resource.k8s.io
                    resourceclaims.resource.k8s.io/status resourceclaimtemplates.resource.k8s.io
    """,
    "system:auth-delegator": """
        create: tokenreviews.authentication.k8s.io subjectaccessreviews.authorization.k8s.io
    """,
    "system:basic-user": """
        create: selfsubjectaccessreviews.authorization.k8s.io selfsubjectrulesreviews.authorization.k8s.io
                    selfsubjectreviews.authentication.k8s.io
    """,
    "system:certificates.k8s.io:certificatesigningrequests:nodeclient": """
        create: certificatesigningrequests.certificates.k8s.io/nodeclient
    """,
    "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient": """
        create: certificatesigningrequests.certificates.k8s.io/selfnodeclient
    """,
    "system:certificates.k8s.io:kube-apiserver-client-approver": """
        approve: signers.certificates.k8s.io = kubernetes.io/kube-apiserver-client
    """,
    "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver": """
        approve: signers.certificates.k8s.io = kubernetes.io/kube-apiserver-client-kubelet
    """,
    "system:certificates.k8s.io:kubelet-serving-approver": """
        approve: signers.certificates.k8s.io = kubernetes.io/kubelet-serving
    """,
    "system:certificates.k8s.io:legacy-unknown-approver": """
        approve: signers.certificates.k8s.io = kubernetes.io/legacy-unknown
    """,
    "system:discovery": """
        get: /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/
    """,
    "system:heapster": """
        get list watch: events namespaces nodes pods deployments.extensions
    """,
    "system:kube-aggregator": """
        get list watch: endpoints services
    """,
    "system:kube-controller-manager": """
        create patch update: events events.events.k8s.io
        create: leases.coordination.k8s.io secrets serviceaccounts tokenreviews.authentication.k8s.io
                    subjectaccessreviews.authorization.k8s.io serviceaccounts/token
        get update: leases.coordination.k8s.io = kube-controller-manager
        delete: secrets
        get: configmaps namespaces secrets serviceaccounts
        update: secrets serviceaccounts
        list watch: *.*
    """,
    "system:kube-dns": """
        list watch: endpoints services
    """,
    "system:kube-scheduler": """
        create patch update: events events.events.k8s.io
        create: leases.coordination.k8s.io bindings pods/binding tokenreviews.authentication.k8s.io
                    subjectaccessreviews.authorization.k8s.io
        get list update watch: leases.coordination.k8s.io = kube-scheduler
        create delete deletecollection get list patch update watch: leasecandidates.coordination.k8s.io
        get list watch: nodes replicationcontrollers services replicasets.apps replicasets.extensions
                    statefulsets.apps poddisruptionbudgets.policy persistentvolumeclaims persistentvolumes
                    csinodes.storage.k8s.io volumeattachments.storage.k8s.io namespaces
                    csidrivers.storage.k8s.io csistoragecapacities.storage.k8s.io
                    deviceclasses.resource.k8s.io resourceslices.resource.k8s.io
        delete get list watch: pods
        patch update: pods/status resourceclaims.resource.k8s.io/binding
        get list patch update watch: resourceclaims.resource.k8s.io resourceclaims.resource.k8s.io/status
        update: pods/finalizers
        create delete: resourceclaims.resource.k8s.io
    """,
    "system:kubelet-api-admin": """
        get list watch: nodes
        proxy: nodes
        *: nodes/log nodes/metrics nodes/proxy nodes/stats nodes/configz nodes/healthz nodes/pods
    """,
    "system:monitoring": """
        get: /flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz
        get: nodes/metrics
    """,
    "system:node": """
        create: tokenreviews.authentication.k8s.io localsubjectaccessreviews.authorization.k8s.io
                    subjectaccessreviews.authorization.k8s.io pods/eviction serviceaccounts/token
        get list watch: services pods configmaps secrets csidrivers.storage.k8s.io
                    runtimeclasses.node.k8s.io
        create get list watch: nodes certificatesigningrequests.certificates.k8s.io
        patch update: nodes/status nodes pods/status
        create patch update: events events.events.k8s.io
        create delete: pods
        get: persistentvolumeclaims persistentvolumes endpoints volumeattachments.storage.k8s.io
                    resourceclaims.resource.k8s.io serviceaccounts
        create delete get patch update: leases.coordination.k8s.io csinodes.storage.k8s.io
        get patch update: persistentvolumeclaims/status
        deletecollection: resourceslices.resource.k8s.io
    """,
    "system:node-bootstrapper": """
        create get list watch: certificatesigningrequests.certificates.k8s.io
    """,
    "system:node-problem-detector": """
        get: nodes
        patch: nodes/status
        create patch update: events events.events.k8s.io
    """,
    "system:node-proxier": """
        list watch: endpoints services servicecidrs.networking.k8s.io endpointslices.discovery.k8s.io
        get list watch: nodes
        create patch update: events events.events.k8s.io
    """,
    "system:persistent-volume-provisioner": """
        create delete get list watch: persistentvolumes
        get list update watch: persistentvolumeclaims
        get list watch: storageclasses.storage.k8s.io
        watch: events
        create patch update: events events.events.k8s.io
    """,
    "system:public-info-viewer": """
        get: /healthz /livez /readyz /version /version/
    """,
    "system:service-account-issuer-discovery": """
        get: /.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks
                    /openid/v1/jwks/
    """,
    "system:volume-scheduler": """
        get list patch update watch: persistentvolumes persistentvolumeclaims
        get list watch: storageclasses.storage.k8s.io
    """,
}
