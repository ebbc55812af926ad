"""Paths below an object: its parts (status), its scale, and its actions (log, exec, binding, eviction …)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from pinnace.api import codec, errors, fields
from pinnace.api.autoscaling import v1 as autoscaling
from pinnace.api.kinds import Kind
from pinnace.api.meta import v1 as meta
from pinnace.apiserver import bodies, calls, metadata, patching, responses
from pinnace.apiserver.access import Operation
from pinnace.apiserver.calls import Call
from pinnace.apiserver.negotiation import Format, media_type
from pinnace.apiserver.options import write_options
from pinnace.apiserver.registry import Write
from pinnace.apiserver.resource import Action, Context, Resource, Scale, Subresource
from pinnace.client.transport import Response

SCALE_KIND = Kind("autoscaling", "v1", "Scale", "", "", module="autoscaling/v1")
SCALE_VERBS = ("get", "patch", "update")
_STREAMS = frozenset({"exec", "attach", "portforward", "proxy"})
_OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}


def find(
    resource: Resource[Any], name: str, verb: str
) -> tuple[Callable[[Call], Coroutine[Any, Any, Response]], Subresource[Any] | None]:
    """What answers a verb below an object, and the part that it is about. Raises NotFound for a path that the
    resource does not have, MethodNotAllowed."""
    part = next((found for found in resource.subresources if found.name == name), None)
    if part is None:
        if name == "scale" and resource.scale is not None:
            return _scale, None
        raise errors.NotFound.path()
    if verb not in part.verbs:
        raise errors.MethodNotAllowed()
    if part.act is not None:
        return _act, part
    match verb:
        case "get":
            return calls.get, part
        case "update":
            return calls.update, part
        case "patch":
            return calls.patch, part
        case _:
            raise errors.MethodNotAllowed()


async def _act(call: Call) -> Response:
    part = call.route.part
    assert part is not None and part.act is not None
    await call.registry.catch_up()
    dry_run = False
    if call.verb in _OPTIONS and part.name not in _STREAMS:
        dry_run = write_options(call.request.query, _OPTIONS[call.verb]).dry_run
        if call.request.body:
            call.request.body = bodies.as_json(call.request, part.kind or call.registry.kind)
    context: Context
    sent = None
    if call.verb != "get" or part.name in _STREAMS:
        write, sent = await _admit(call, part, dry_run)
        context, cause = write, write.cause
    else:
        context = call.context(dry_run)
        cause = call.cause(context.now)
    return await part.act(Action(call.request, call.server, call.namespace, call.name, context, cause, sent))


async def _admit(call: Call, part: Subresource[Any], dry_run: bool) -> tuple[Write, Any]:
    """Admission sees what is sent to an action as it sees objects: token requests, bindings, evictions. Returns what
    is known of the write, and that object."""
    operation: Operation = "CREATE" if call.verb == "create" else "UPDATE"
    obj = None
    if part.name in _STREAMS:
        operation = "CONNECT"
    elif part.kind is not None and call.request.given is not None:
        obj = bodies.given(call.request, part.kind)
    elif part.kind is not None and part.kind.module and call.request.body:
        obj = bodies.typed(call.request.body, part.kind, compact=not call.encoded)
    write = call.write(dry_run, operation)
    if write.mutating:
        await write.mutate(obj, None)
    if write.validating:
        await write.validate(obj, None)
    return write, obj


async def _scale(call: Call) -> Response:
    format = call.format(views=False)
    registry = call.registry
    scale = registry.resource.scale
    assert scale is not None
    if call.verb == "get":
        await registry.catch_up()
        return _shown(call, format, to_scale(registry.get(call.namespace, call.name), scale))
    if call.verb not in SCALE_VERBS:
        raise errors.MethodNotAllowed()
    wanted = _wanted(call, scale)
    _, given = call.terms()
    write = call.write(given.dry_run, "UPDATE")

    def change(current: Any) -> Any:
        asked = wanted(to_scale(current, scale))
        revision = asked.metadata.resourceVersion
        if revision and revision != current.metadata.resourceVersion:
            raise registry.conflict(call.name)
        if asked.metadata.uid and asked.metadata.uid != current.metadata.uid:
            raise registry.conflict(
                call.name,
                f"Precondition failed: UID in precondition: {asked.metadata.uid}, "
                f"UID in object meta: {current.metadata.uid}",
            )
        replicas = (asked.spec.replicas if asked.spec is not None else None) or 0
        if replicas < 0:
            finding = fields.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
            raise errors.Invalid.of("Scale", "autoscaling", call.name, [finding])
        changed = codec.copy(current)
        scale.set_replicas(changed, replicas)
        return changed

    await registry.catch_up()
    entry = await registry.update(call.namespace, call.name, change, write)
    return responses.warn(_shown(call, format, to_scale(entry.object, scale)), call.warnings)


def _wanted(call: Call, scale: Scale[Any]) -> Callable[[autoscaling.Scale], autoscaling.Scale]:
    """The Scale that the request asks for, given the current one. Raises BadRequest."""
    if call.verb == "update":
        asked, warnings = bodies.decode(call.request, SCALE_KIND, call.terms()[1].validation)
        call.warnings.extend(warnings)
        metadata.take_namespace(asked, SCALE_KIND, call.namespace)
        metadata.check_name(asked, call.name)
        return lambda _: asked
    media, _ = media_type(call.request.headers.get("content-type", ""))
    patching.check_media(media)
    patch = bodies.plain(call.request.body, SCALE_KIND.kind)
    apply = patching.patcher(media, patch, autoscaling.Scale, call.request.body)

    def patched(current: autoscaling.Scale) -> autoscaling.Scale:
        found: autoscaling.Scale = bodies.from_dict(apply(codec.to_dict(current)), SCALE_KIND)
        if not patching.pinned(patch, media):
            found.metadata.resourceVersion = None
        return found

    return patched


def _shown(call: Call, format: Format, scale: autoscaling.Scale) -> Response:
    if not call.encoded:
        return Response(200, {}, object=scale)
    return responses.document(scale, format, pretty=call.pretty)


def to_scale(obj: Any, scale: Scale[Any]) -> autoscaling.Scale:
    """The object as autoscaling/v1 sees it."""
    own = obj.metadata
    return autoscaling.Scale(
        metadata=meta.ObjectMeta(
            name=own.name, namespace=own.namespace, uid=own.uid, resourceVersion=own.resourceVersion,
            creationTimestamp=own.creationTimestamp,
        ),
        spec=autoscaling.ScaleSpec(replicas=scale.replicas(obj)),
        status=autoscaling.ScaleStatus(
            replicas=scale.status_replicas(obj), selector=scale.selector(obj)
        ),
    )  # fmt: skip
