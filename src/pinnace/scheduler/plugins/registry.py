"""The plugins that run, in upstream's order: the first reason found is the one that is told."""

from __future__ import annotations

from pinnace.scheduler.plugins.framework import Plugin
from pinnace.scheduler.plugins.image_locality import ImageLocality
from pinnace.scheduler.plugins.node_affinity import NodeAffinity
from pinnace.scheduler.plugins.node_name import NodeName, NodeUnschedulable
from pinnace.scheduler.plugins.node_ports import NodePorts
from pinnace.scheduler.plugins.node_resources import NodeResourcesBalancedAllocation, NodeResourcesFit
from pinnace.scheduler.plugins.pod_affinity import InterPodAffinity
from pinnace.scheduler.plugins.taints import TaintToleration
from pinnace.scheduler.plugins.topology_spread import DefaultSpread, PodTopologySpread

PLUGINS: tuple[Plugin, ...] = (
    NodeUnschedulable(),
    NodeName(),
    TaintToleration(),
    NodeAffinity(),
    NodePorts(),
    NodeResourcesFit(),
    PodTopologySpread(),
    DefaultSpread(),
    InterPodAffinity(),
    NodeResourcesBalancedAllocation(),
    ImageLocality(),
)
