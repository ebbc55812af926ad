"""Wire types that the JSON schema lacks, because no path of the server takes or returns them as a stored kind.

Read by tools/generate_api.py. One block a type: `<group>.<version> Name [= apiVersion of the kind]`, then one line
a field: `name type`. Types: str int bool Time Raw, another type by name (of the same module, or with its path),
`[T]` list, `{T}` map; `!` at the end: always printed (Go without omitempty, or a struct held by value).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
SCALARS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer", "format": "int64"},
    "bool": {"type": "boolean"},
    "Time": {"$ref": f"#/$defs/{META}Time"},
    "Base64": {"type": "string", "format": "byte"},
    "Raw": {},
}

SUPPLEMENT = """
meta.v1 TableColumnDefinition
  name str!
  type str!
  format str!
  description str!
  priority int!
meta.v1 TableRowCondition
  type str!
  status str!
  reason str
  message str
meta.v1 TableRow
  cells [Raw]!
  conditions [TableRowCondition]
  object Raw
meta.v1 Table = meta.k8s.io/v1
  metadata ListMeta!
  columnDefinitions [TableColumnDefinition]!
  rows [TableRow]!
meta.v1 PartialObjectMetadata = meta.k8s.io/v1
  metadata ObjectMeta!
meta.v1 PartialObjectMetadataList = meta.k8s.io/v1
  metadata ListMeta!
  items [PartialObjectMetadata]!
meta.v1 TableOptions = meta.k8s.io/v1
  includeObject str
meta.v1 ListOptions = v1
  labelSelector str
  fieldSelector str
  watch bool
  allowWatchBookmarks bool
  resourceVersion str
  resourceVersionMatch str
  timeoutSeconds int
  limit int
  continue str
  sendInitialEvents bool
  shardSelector str
meta.v1 GetOptions = v1
  resourceVersion str
meta.v1 CreateOptions = v1
  dryRun [str]
  fieldManager str
  fieldValidation str
meta.v1 UpdateOptions = v1
  dryRun [str]
  fieldManager str
  fieldValidation str
meta.v1 PatchOptions = v1
  dryRun [str]
  force bool
  fieldManager str
  fieldValidation str
core.v1 List = v1
  metadata meta.v1.ListMeta!
  items [Raw]!
meta.v1 GroupVersionKind
  group str!
  version str!
  kind str!
meta.v1 GroupVersionResource
  group str!
  version str!
  resource str!
core.v1 PodStatusResult = v1
  metadata meta.v1.ObjectMeta!
  status PodStatus!
core.v1 RangeAllocation = v1
  metadata meta.v1.ObjectMeta!
  range str!
  data Base64!
core.v1 SerializedReference = v1
  reference ObjectReference!
core.v1 PodExecOptions = v1
  stdin bool
  stdout bool
  stderr bool
  tty bool
  container str
  command [str]!
core.v1 PodAttachOptions = v1
  stdin bool
  stdout bool
  stderr bool
  tty bool
  container str
core.v1 PodLogOptions = v1
  container str
  follow bool
  previous bool
  sinceSeconds int
  sinceTime Time
  timestamps bool
  tailLines int
  limitBytes int
  insecureSkipTLSVerifyBackend bool
  stream str
core.v1 PodPortForwardOptions = v1
  ports [int]
core.v1 PodProxyOptions = v1
  path str
core.v1 NodeProxyOptions = v1
  path str
core.v1 ServiceProxyOptions = v1
  path str
admission.v1 AdmissionRequest
  uid str!
  kind meta.v1.GroupVersionKind!
  resource meta.v1.GroupVersionResource!
  subResource str
  requestKind meta.v1.GroupVersionKind
  requestResource meta.v1.GroupVersionResource
  requestSubResource str
  name str
  namespace str
  operation str!
  userInfo authentication.v1.UserInfo!
  object Raw
  oldObject Raw
  dryRun bool
  options Raw
admission.v1 AdmissionResponse
  uid str!
  allowed bool!
  status meta.v1.Status
  patch Base64
  patchType str
  auditAnnotations {str}
  warnings [str]
admission.v1 AdmissionReview = admission.k8s.io/v1
  request AdmissionRequest
  response AdmissionResponse
admission.v1beta1 AdmissionRequest
  uid str!
  kind meta.v1.GroupVersionKind!
  resource meta.v1.GroupVersionResource!
  subResource str
  requestKind meta.v1.GroupVersionKind
  requestResource meta.v1.GroupVersionResource
  requestSubResource str
  name str
  namespace str
  operation str!
  userInfo authentication.v1.UserInfo!
  object Raw
  oldObject Raw
  dryRun bool
  options Raw
admission.v1beta1 AdmissionResponse
  uid str!
  allowed bool!
  status meta.v1.Status
  patch Base64
  patchType str
  auditAnnotations {str}
  warnings [str]
admission.v1beta1 AdmissionReview = admission.k8s.io/v1beta1
  request AdmissionRequest
  response AdmissionResponse
apidiscovery.v2 APISubresourceDiscovery
  subresource str!
  responseKind meta.v1.GroupVersionKind
  acceptedTypes [meta.v1.GroupVersionKind]
  verbs [str]!
apidiscovery.v2 APIResourceDiscovery
  resource str!
  responseKind meta.v1.GroupVersionKind
  scope str!
  singularResource str!
  verbs [str]!
  shortNames [str]
  categories [str]
  subresources [APISubresourceDiscovery]
apidiscovery.v2 APIVersionDiscovery
  version str!
  resources [APIResourceDiscovery]
  freshness str
apidiscovery.v2 APIGroupDiscovery = apidiscovery.k8s.io/v2
  metadata meta.v1.ObjectMeta!
  versions [APIVersionDiscovery]
apidiscovery.v2 APIGroupDiscoveryList = apidiscovery.k8s.io/v2
  metadata meta.v1.ListMeta!
  items [APIGroupDiscovery]!
apidiscovery.v2beta1 APISubresourceDiscovery
  subresource str!
  responseKind meta.v1.GroupVersionKind
  acceptedTypes [meta.v1.GroupVersionKind]
  verbs [str]!
apidiscovery.v2beta1 APIResourceDiscovery
  resource str!
  responseKind meta.v1.GroupVersionKind
  scope str!
  singularResource str!
  verbs [str]!
  shortNames [str]
  categories [str]
  subresources [APISubresourceDiscovery]
apidiscovery.v2beta1 APIVersionDiscovery
  version str!
  resources [APIResourceDiscovery]
  freshness str
apidiscovery.v2beta1 APIGroupDiscovery = apidiscovery.k8s.io/v2beta1
  metadata meta.v1.ObjectMeta!
  versions [APIVersionDiscovery]
apidiscovery.v2beta1 APIGroupDiscoveryList = apidiscovery.k8s.io/v2beta1
  metadata meta.v1.ListMeta!
  items [APIGroupDiscovery]!
"""


def definitions() -> dict[str, Schema]:
    """The types above in the schema's own form."""
    found: dict[str, Schema] = {}
    here = ""
    current: Schema = {}
    for line in SUPPLEMENT.strip().splitlines():
        if line.startswith(" "):
            name, text = line.split()
            current["properties"][name] = _schema(text.rstrip("!"), here)
            if text.endswith("!"):
                current["required"].append(name)
            continue
        head, _, api_version = line.partition(" = ")
        here, kind = head.split()
        current = {"type": "object", "properties": {}, "required": []}
        if api_version:
            group, _, version = api_version.rpartition("/")
            current["properties"] = {"kind": SCALARS["str"], "apiVersion": SCALARS["str"]}
            current["x-kubernetes-group-version-kind"] = [{"group": group, "version": version, "kind": kind}]
        found[_definition(f"{here}.{kind}")] = current
    return found


def _schema(text: str, here: str) -> Schema:
    if text.startswith("["):
        return {"type": "array", "items": _schema(text[1:-1], here)}
    if text.startswith("{"):
        return {"type": "object", "additionalProperties": _schema(text[1:-1], here)}
    if text in SCALARS:
        return SCALARS[text]
    return {"$ref": f"#/$defs/{_definition(text if '.' in text else f'{here}.{text}')}"}


def _definition(path: str) -> str:
    return META + path.removeprefix("meta.v1.") if path.startswith("meta.v1.") else f"io.k8s.api.{path}"
