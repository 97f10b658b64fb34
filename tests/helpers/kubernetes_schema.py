"""JSON schemas of the Kubernetes objects in cluster/: the fields that are used there, and no others.

From the reference of ray.io/v1 (KubeRay 1.5 to 1.7) and of Kubernetes' Pod.
"""

from __future__ import annotations

from typing import Any

STRING = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {
    "type": "object",
    "required": ["cpu", "memory"],
    "additionalProperties": False,
    "properties": {
        "cpu": {"type": "string", "pattern": r"^\d+(\.\d+|m)?$"},
        "memory": {"type": "string", "pattern": r"^\d+(Mi|Gi)$"},
        "nvidia.com/gpu": {"type": "integer", "minimum": 1},
    },
}


def section(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


def items(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": of}


PORT = section({"name": STRING, "containerPort": {"type": "integer", "minimum": 1, "maximum": 65535}})
CONTAINER = section(
    {"name": STRING, "image": STRING, "resources": section({"requests": QUANTITIES, "limits": QUANTITIES})},
    {"ports": items(PORT)},
)
TOLERATION = section(
    {"key": STRING, "operator": {"enum": ["Exists"]}, "effect": {"enum": ["NoSchedule", "NoExecute"]}},
)
# Autoscaler v2 wants pods that are replaced, not restarted.
POD = section(
    {"restartPolicy": {"const": "Never"}, "serviceAccountName": STRING, "containers": items(CONTAINER)},
    {"tolerations": items(TOLERATION)},
)
TEMPLATE = section({"spec": POD})
WORKERS = section(
    {
        "groupName": STRING,
        "replicas": COUNT,
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "rayStartParams": TEXTS,
        "template": TEMPLATE,
    }
)
CLUSTER = section(
    {
        "rayVersion": STRING,
        "authOptions": section({"mode": {"const": "token"}}),
        "enableInTreeAutoscaling": {"const": True},
        "autoscalerOptions": section({"version": {"const": "v2"}, "idleTimeoutSeconds": COUNT}),
        "headGroupSpec": section({"rayStartParams": TEXTS, "template": TEMPLATE}),
        "workerGroupSpecs": items(WORKERS),
    }
)
JOB = section(
    {
        "entrypoint": STRING,
        "backoffLimit": COUNT,
        "shutdownAfterJobFinishes": {"const": True},
        "ttlSecondsAfterFinished": COUNT,
        "rayClusterSpec": CLUSTER,
    }
)


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    name = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$"}
    return section(
        {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"const": kind},
            "metadata": section({"name": name}),
            "spec": spec,
        }
    )


SCHEMAS = {"RayCluster": resource("RayCluster", CLUSTER), "RayJob": resource("RayJob", JOB)}
