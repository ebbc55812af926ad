"""Storage classes and what CSI drivers tell of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required, too_long
from pinnace.api.kinds import kind_of
from pinnace.api.storage import v1 as storage
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, UNSET, column
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part

DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
MODES = ("Immediate", "WaitForFirstConsumer")


def default_class(storage_class: storage.StorageClass) -> None:
    if storage_class.reclaimPolicy is None:
        storage_class.reclaimPolicy = "Delete"
    if storage_class.volumeBindingMode is None:
        storage_class.volumeBindingMode = "Immediate"


def validate_class(storage_class: storage.StorageClass) -> Iterator[FieldError]:
    if not storage_class.provisioner:
        yield required("provisioner")
    else:
        yield from rules.qualified_name("provisioner", storage_class.provisioner.lower())
    yield from _parameters(storage_class.parameters)
    if storage_class.reclaimPolicy and storage_class.reclaimPolicy not in ("Delete", "Retain"):
        yield not_supported("reclaimPolicy", storage_class.reclaimPolicy, ("Delete", "Retain"))
    if storage_class.volumeBindingMode is None:
        yield required("volumeBindingMode")
    elif storage_class.volumeBindingMode not in MODES:
        yield not_supported("volumeBindingMode", storage_class.volumeBindingMode, MODES)


def _parameters(parameters: dict[str, str] | None) -> Iterator[FieldError]:
    if len(parameters or ()) > 512:
        yield too_long("parameters", "Provisioner Parameters exceeded max allowed", 512)
    for key in parameters or ():
        if not key:
            yield invalid("parameters", key, "field can not be empty.")


def update_class(new: storage.StorageClass, old: storage.StorageClass) -> Iterator[FieldError]:
    yield from validate_class(new)
    if (new.parameters or {}) != (old.parameters or {}):
        yield forbidden("parameters", "updates to parameters are forbidden.")
    if new.provisioner != old.provisioner:
        yield forbidden("provisioner", "updates to provisioner are forbidden.")
    if new.reclaimPolicy != old.reclaimPolicy:
        yield forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden.")
    yield from rules.immutable("volumeBindingMode", new.volumeBindingMode, old.volumeBindingMode)


def _class_name(thing: storage.StorageClass) -> str:
    annotations = thing.metadata.annotations or {}
    name = thing.metadata.name or ""
    return f"{name} (default)" if any(annotations.get(key) == "true" for key in DEFAULT_CLASS) else name


CLASS_COLUMNS: tuple[Column[Any], ...] = (
    Column("Name", lambda thing, _: _class_name(thing), format="name", description=NAME.description),
    column("Provisioner", lambda s: s.provisioner, "What makes the volumes."),
    column("ReclaimPolicy", lambda s: s.reclaimPolicy or "Delete", "What happens to a volume after its claim."),
    column("VolumeBindingMode", lambda s: s.volumeBindingMode or UNSET, "When a claim gets its volume."),
    column("AllowVolumeExpansion", lambda s: bool(s.allowVolumeExpansion), "Whether volumes can grow."),
    AGE,
)


def default_driver(driver: storage.CSIDriver) -> None:
    spec = driver.spec
    if spec.attachRequired is None:
        spec.attachRequired = True
    if spec.podInfoOnMount is None:
        spec.podInfoOnMount = False
    if spec.storageCapacity is None:
        spec.storageCapacity = False
    if spec.fsGroupPolicy is None:
        spec.fsGroupPolicy = "ReadWriteOnceWithFSType"
    if not spec.volumeLifecycleModes:
        spec.volumeLifecycleModes = ["Persistent"]
    if spec.requiresRepublish is None:
        spec.requiresRepublish = False
    if spec.seLinuxMount is None:
        spec.seLinuxMount = False


def validate_driver(driver: storage.CSIDriver) -> Iterator[FieldError]:
    spec = driver.spec
    yield from rules.csi_driver_name("metadata.name", driver.metadata.name or "")
    policies = ("File", "None", "ReadWriteOnceWithFSType")
    if spec.fsGroupPolicy not in (None, *policies):
        yield not_supported("spec.fsGroupPolicy", spec.fsGroupPolicy, policies)
    for mode in spec.volumeLifecycleModes or ():
        if mode not in ("Ephemeral", "Persistent"):
            yield not_supported("spec.volumeLifecycleModes", mode, ("Ephemeral", "Persistent"))
    audiences: set[str] = set()
    for i, request in enumerate(spec.tokenRequests or ()):
        if request.audience in audiences:
            yield duplicate(f"spec.tokenRequests[{i}].audience", request.audience)
        audiences.add(request.audience)
        if request.expirationSeconds is not None and request.expirationSeconds < 600:
            yield invalid(
                f"spec.tokenRequests[{i}].expirationSeconds",
                request.expirationSeconds,
                "may not specify a duration less than 10 minutes",
            )


def update_driver(new: storage.CSIDriver, old: storage.CSIDriver) -> Iterator[FieldError]:
    yield from validate_driver(new)
    for word in ("attachRequired", "fsGroupPolicy", "volumeLifecycleModes"):
        if word != "fsGroupPolicy":
            yield from rules.immutable(f"spec.{word}", getattr(new.spec, word), getattr(old.spec, word))


def _modes(driver: storage.CSIDriver) -> str:
    return ",".join(driver.spec.volumeLifecycleModes or ()) or "<none>"


DRIVER_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("AttachRequired", lambda d: d.spec.attachRequired is not False, "Needs attaching.", type="boolean"),
    column("PodInfoOnMount", lambda d: bool(d.spec.podInfoOnMount), "Is told of the pod.", type="boolean"),
    column("StorageCapacity", lambda d: bool(d.spec.storageCapacity), "Reports free space.", type="boolean"),
    column(
        "TokenRequests",
        lambda d: ",".join(r.audience for r in d.spec.tokenRequests or ()) or UNSET,
        "Audiences of the tokens it is given.",
    ),
    column("RequiresRepublish", lambda d: bool(d.spec.requiresRepublish), "Is called again.", type="boolean"),
    column("Modes", _modes, "Kinds of volumes."),
    AGE,
)


def validate_node(node: storage.CSINode) -> Iterator[FieldError]:
    names: set[str] = set()
    for i, driver in enumerate(node.spec.drivers):
        path = f"spec.drivers[{i}]"
        yield from rules.csi_driver_name(f"{path}.name", driver.name)
        if not driver.nodeID:
            yield required(f"{path}.nodeID")
        if driver.name in names:
            yield duplicate(f"{path}.name", driver.name)
        names.add(driver.name)


def validate_attachment(attachment: storage.VolumeAttachment) -> Iterator[FieldError]:
    spec = attachment.spec
    if not spec.attacher:
        yield required("spec.attacher")
    inline, named = spec.source.inlineVolumeSpec, spec.source.persistentVolumeName
    if inline is None and not named:
        yield required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
    elif inline is not None and named:
        yield forbidden("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
    yield from rules.dns_subdomain("spec.nodeName", spec.nodeName)


def update_attachment(new: storage.VolumeAttachment, old: storage.VolumeAttachment) -> Iterator[FieldError]:
    yield from validate_attachment(new)
    if new.spec != old.spec:
        yield invalid("spec", new.spec, "field is immutable")


def validate_attributes(thing: storage.VolumeAttributesClass) -> Iterator[FieldError]:
    if not thing.driverName:
        yield required("driverName")
    if not thing.parameters:
        yield required("parameters", "must contain at least one key/value pair")
    yield from _parameters(thing.parameters)


def update_attributes(
    new: storage.VolumeAttributesClass, old: storage.VolumeAttributesClass
) -> Iterator[FieldError]:
    if new.driverName != old.driverName:
        yield forbidden("driverName", "updates to driverName are forbidden.")
    if (new.parameters or {}) != (old.parameters or {}):
        yield forbidden("parameters", "updates to parameters are forbidden.")


def validate_capacity(capacity: storage.CSIStorageCapacity) -> Iterator[FieldError]:
    yield from rules.dns_subdomain("storageClassName", capacity.storageClassName)


def update_capacity(
    new: storage.CSIStorageCapacity, old: storage.CSIStorageCapacity
) -> Iterator[FieldError]:
    yield from validate_capacity(new)
    yield from rules.immutable("nodeTopology", new.nodeTopology, old.nodeTopology)
    yield from rules.immutable("storageClassName", new.storageClassName, old.storageClassName)


STORAGE_CLASS: Resource[storage.StorageClass] = Resource(
    kind=kind_of(storage.StorageClass),
    default=default_class,
    validate_create=validate_class,
    validate_update=update_class,
    columns=CLASS_COLUMNS,
    generation=False,
    returns_deleted=True,
)
CSI_DRIVER: Resource[storage.CSIDriver] = Resource(
    kind=kind_of(storage.CSIDriver),
    default=default_driver,
    validate_create=validate_driver,
    validate_update=update_driver,
    columns=DRIVER_COLUMNS,
    generation=False,
    returns_deleted=True,
    allow_unconditional_update=False,
)
CSI_NODE: Resource[storage.CSINode] = Resource(
    kind=kind_of(storage.CSINode),
    validate_create=validate_node,
    validate_update=lambda new, _: validate_node(new),
    columns=(
        NAME,
        column("Drivers", lambda n: len(n.spec.drivers), "Drivers on the node.", type="integer"),
        AGE,
    ),
    generation=False,
    returns_deleted=True,
    allow_unconditional_update=False,
)
CSI_STORAGE_CAPACITY: Resource[storage.CSIStorageCapacity] = Resource(
    kind=kind_of(storage.CSIStorageCapacity),
    validate_create=validate_capacity,
    validate_update=update_capacity,
    columns=(
        NAME,
        column("StorageClassName", lambda c: c.storageClassName, "The class it is about."),
        column("Capacity", lambda c: UNSET if c.capacity is None else str(c.capacity), "What is left."),
    ),
    generation=False,
    allow_unconditional_update=False,
)
VOLUME_ATTACHMENT: Resource[storage.VolumeAttachment] = Resource(
    kind=kind_of(storage.VolumeAttachment),
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_attachment,
    validate_update=update_attachment,
    columns=(
        NAME,
        column("Attacher", lambda a: a.spec.attacher, "The driver that attaches."),
        column("PV", lambda a: a.spec.source.persistentVolumeName or "", "The volume."),
        column("Node", lambda a: a.spec.nodeName, "The node."),
        column("Attached", lambda a: bool(a.status.attached), "Whether it is done.", type="boolean"),
        AGE,
    ),
    subresources=(status_part(),),
    generation=False,
    returns_deleted=True,
    allow_unconditional_update=False,
)
VOLUME_ATTRIBUTES_CLASS: Resource[storage.VolumeAttributesClass] = Resource(
    kind=kind_of(storage.VolumeAttributesClass),
    validate_create=validate_attributes,
    validate_update=update_attributes,
    columns=(NAME, column("DriverName", lambda v: v.driverName, "The driver."), AGE),
    generation=False,
    returns_deleted=True,
)
RESOURCES = (
    STORAGE_CLASS, CSI_DRIVER, CSI_NODE, CSI_STORAGE_CAPACITY, VOLUME_ATTACHMENT, VOLUME_ATTRIBUTES_CLASS,
)  # fmt: skip
