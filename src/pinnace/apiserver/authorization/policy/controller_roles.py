"""The role of each controller (upstream bootstrappolicy, controller_policy.go)."""

from __future__ import annotations

CONTROLLER_ROLES: dict[str, str] = {
    "system:controller:attachdetach-controller": """
        list watch: persistentvolumeclaims persistentvolumes pods
        get list watch: nodes csidrivers.storage.k8s.io csinodes.storage.k8s.io
        patch update: nodes/status
        create patch update: events events.events.k8s.io
        create delete get list watch: volumeattachments.storage.k8s.io
    """,
    "system:controller:certificate-controller": """
        delete get list watch: certificatesigningrequests.certificates.k8s.io
        update: certificatesigningrequests.certificates.k8s.io/approval
                    certificatesigningrequests.certificates.k8s.io/status
        approve: signers.certificates.k8s.io = kubernetes.io/kube-apiserver-client-kubelet
        sign: signers.certificates.k8s.io = kubernetes.io/kube-apiserver-client
                    kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving
                    kubernetes.io/legacy-unknown
        create: subjectaccessreviews.authorization.k8s.io
        create patch update: events events.events.k8s.io
    """,
    "system:controller:clusterrole-aggregation-controller": """
        escalate get list patch update watch: clusterroles.rbac.authorization.k8s.io
    """,
    "system:controller:cronjob-controller": """
        get list update watch: cronjobs.batch
        create delete get list patch update watch: jobs.batch
        update: cronjobs.batch/status cronjobs.batch/finalizers
        delete list watch: pods
        create patch update: events events.events.k8s.io
    """,
    "system:controller:daemon-set-controller": """
        get list watch: daemonsets.apps daemonsets.extensions
        update: daemonsets.apps/status daemonsets.extensions/status daemonsets.apps/finalizers
                    daemonsets.extensions/finalizers
        list watch: nodes
        create delete list patch watch: pods
        create: pods/binding
        create delete get list patch update watch: controllerrevisions.apps
        create patch update: events events.events.k8s.io
    """,
    "system:controller:deployment-controller": """
        get list update watch: deployments.apps deployments.extensions pods
        update: deployments.apps/status deployments.extensions/status deployments.apps/finalizers
                    deployments.extensions/finalizers
        create delete get list patch update watch: replicasets.apps replicasets.extensions
        create patch update: events events.events.k8s.io
    """,
    "system:controller:device-taint-eviction-controller": """
        delete get list watch: pods
        patch update: pods/status
        get list watch: resourceclaims.resource.k8s.io resourceslices.resource.k8s.io
                    deviceclasses.resource.k8s.io
        create patch update: events events.events.k8s.io
    """,
    "system:controller:disruption-controller": """
        get list watch: deployments.apps deployments.extensions replicasets.apps replicasets.extensions
                    replicationcontrollers poddisruptionbudgets.policy statefulsets.apps
        update: poddisruptionbudgets.policy/status
        patch update: pods/status
        get: *.*/scale
        create patch update: events events.events.k8s.io
    """,
    "system:controller:endpoint-controller": """
        get list watch: pods services
        create delete get list update watch: endpoints
        create: endpoints/restricted
        create patch update: events events.events.k8s.io
    """,
    "system:controller:endpointslice-controller": """
        get list watch: nodes pods services
        update: services/finalizers
        create delete get list update watch: endpointslices.discovery.k8s.io
        create: endpointslices.discovery.k8s.io/restricted
        create patch update: events events.events.k8s.io
    """,
    "system:controller:endpointslicemirroring-controller": """
        get list watch: endpoints services
        update: services/finalizers endpoints/finalizers
        create delete get list update watch: endpointslices.discovery.k8s.io
        create: endpointslices.discovery.k8s.io/restricted
        create patch update: events events.events.k8s.io
    """,
    "system:controller:ephemeral-volume-controller": """
        get list watch: pods
        update: pods/finalizers
        create get list watch: persistentvolumeclaims
        create patch update: events events.events.k8s.io
    """,
    "system:controller:expand-controller": """
        get list patch update watch: persistentvolumes
        patch update: persistentvolumeclaims/status
        get list watch: persistentvolumeclaims
        create patch update: events events.events.k8s.io
    """,
    "system:controller:generic-garbage-collector": """
        delete get list patch update watch: *.*
        create patch update: events events.events.k8s.io
    """,
    "system:controller:horizontal-pod-autoscaler": """
        get list watch: horizontalpodautoscalers.autoscaling *.custom.metrics.k8s.io
                    *.external.metrics.k8s.io
        update: horizontalpodautoscalers.autoscaling/status
        get update: *.*/scale
        list watch: pods pods.metrics.k8s.io
        create patch update: events events.events.k8s.io
    """,
    "system:controller:job-controller": """
        get list patch update watch: jobs.batch
        update: jobs.batch/status jobs.batch/finalizers
        create delete list patch watch: pods
        create patch update: events events.events.k8s.io
    """,
    "system:controller:legacy-service-account-token-cleaner": """
        get: configmaps = kube-apiserver-legacy-service-account-token-tracking
        delete patch: secrets
    """,
    "system:controller:namespace-controller": """
        delete get list watch: namespaces
        update: namespaces/finalize namespaces/status
        delete deletecollection get list watch: *.*
    """,
    "system:controller:node-controller": """
        delete get list patch update watch: nodes
        patch update: nodes/status pods/status
        delete get list watch: pods
        create patch update: events events.events.k8s.io
    """,
    "system:controller:persistent-volume-binder": """
        create delete get list update watch: persistentvolumes
        update: persistentvolumes/status persistentvolumeclaims/status
        get list update watch: persistentvolumeclaims
        create delete get list watch: pods
        get list watch: storageclasses.storage.k8s.io
        list watch: nodes
        create patch update: events events.events.k8s.io
        watch: events
    """,
    "system:controller:pod-garbage-collector": """
        delete list watch: pods
        get list watch: nodes
        patch: pods/status
    """,
    "system:controller:pv-protection-controller": """
        get list update watch: persistentvolumes
        create patch update: events events.events.k8s.io
    """,
    "system:controller:pvc-protection-controller": """
        get list update watch: persistentvolumeclaims
        update: persistentvolumeclaims/status
        get list watch: pods
        create patch update: events events.events.k8s.io
    """,
    "system:controller:replicaset-controller": """
        get list update watch: replicasets.apps replicasets.extensions
        update: replicasets.apps/status replicasets.extensions/status replicasets.apps/finalizers
                    replicasets.extensions/finalizers
        create delete list patch watch: pods
        create patch update: events events.events.k8s.io
    """,
    "system:controller:replication-controller": """
        get list update watch: replicationcontrollers
        update: replicationcontrollers/status replicationcontrollers/finalizers
        create delete list patch watch: pods
        create patch update: events events.events.k8s.io
    """,
    "system:controller:resource-claim-controller": """
        get list watch: pods
        update: pods/finalizers
        create delete get list watch: resourceclaims.resource.k8s.io
        patch update: resourceclaims.resource.k8s.io resourceclaims.resource.k8s.io/status pods/status
                    resourceclaims.resource.k8s.io/binding
        create patch update: events events.events.k8s.io
    """,
    "system:controller:resourcequota-controller": """
        list watch: *.*
        update: resourcequotas/status
        create patch update: events events.events.k8s.io
    """,
    "system:controller:root-ca-cert-publisher": """
        create update: configmaps
        create patch update: events events.events.k8s.io
    """,
    "system:controller:route-controller": """
        list watch: nodes
        patch: nodes/status
        create patch update: events events.events.k8s.io
    """,
    "system:controller:selinux-warning-controller": """
        create patch update: events events.events.k8s.io
        get list watch: persistentvolumes persistentvolumeclaims pods csidrivers.storage.k8s.io
    """,
    "system:controller:service-account-controller": """
        create: serviceaccounts
        create patch update: events events.events.k8s.io
    """,
    "system:controller:service-ca-cert-publisher": """
        create update: configmaps
        create patch update: events events.events.k8s.io
    """,
    "system:controller:service-cidrs-controller": """
        get list patch update watch: servicecidrs.networking.k8s.io
        patch update: servicecidrs.networking.k8s.io/finalizers servicecidrs.networking.k8s.io/status
        get list watch: ipaddresses.networking.k8s.io
        create patch update: events events.events.k8s.io
    """,
    "system:controller:service-controller": """
        get list watch: services
        patch update: services/status
        list watch: nodes
        create patch update: events events.events.k8s.io
    """,
    "system:controller:statefulset-controller": """
        list watch: pods
        get list watch: statefulsets.apps
        update: statefulsets.apps/status statefulsets.apps/finalizers pods/finalizers
        create delete get patch update: pods
        create delete get list patch update watch: controllerrevisions.apps
        create get list watch: persistentvolumeclaims
        delete update: persistentvolumeclaims
        create patch update: events events.events.k8s.io
    """,
    "system:controller:ttl-after-finished-controller": """
        delete get list watch: jobs.batch
        create patch update: events events.events.k8s.io
    """,
    "system:controller:ttl-controller": """
        list patch update watch: nodes
        create patch update: events events.events.k8s.io
    """,
    "system:controller:validatingadmissionpolicy-status-controller": """
        get list watch: validatingadmissionpolicies.admissionregistration.k8s.io
        get patch update: validatingadmissionpolicies.admissionregistration.k8s.io/status
        create patch update: events events.events.k8s.io
    """,
    "system:controller:volumeattributesclass-protection-controller": """
        get list watch: persistentvolumeclaims persistentvolumes
        get list update watch: volumeattributesclasses.storage.k8s.io
        create patch update: events events.events.k8s.io
    """,
}
