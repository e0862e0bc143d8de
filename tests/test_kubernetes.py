"""The manifests under deploy/: valid, hardened, and in agreement with image and service."""

import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from test_container_files import dockerfile, last  # noqa: F401 - dockerfile is a fixture

from cascade.serving.rest.settings import ServiceSettings
from cascade.version import __version__

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
MANIFEST = DEPLOY / "kubernetes.yaml"
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()


def objects():
    return list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))


def one(kind):
    (found,) = [item for item in objects() if item["kind"] == kind]
    return found


@pytest.fixture(scope="module")
def pod():
    return one("Deployment")["spec"]["template"]


@pytest.fixture(scope="module")
def container(pod):
    (only,) = pod["spec"]["containers"]
    return only


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_conforms_to_the_schema_of_kubernetes(version):
    assert OLDEST in MANIFEST.read_text(encoding="utf-8").splitlines()[0]
    kinds = [item["kind"] for item in objects()]
    assert sorted(kinds) == ["Deployment", "HorizontalPodAutoscaler", "Namespace", "NetworkPolicy",
                             "PodDisruptionBudget", "Service"]  # fmt: skip
    for item in objects():
        kubernetes_validate.validate(item, version, strict=True)


def test_the_schema_notices_a_misspelt_field(pod):
    deployment = one("Deployment")
    deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonroot"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


def test_every_object_is_about_the_same_pods(pod):
    namespace = one("Namespace")["metadata"]["name"]
    for item in objects():
        if item["kind"] != "Namespace":
            assert item["metadata"]["namespace"] == namespace
    labels = pod["metadata"]["labels"]
    assert labels
    for selector in (
        one("Deployment")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == labels
    target = one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    deployment = one("Deployment")
    assert target["name"] == deployment["metadata"]["name"]
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], "Deployment")
    assert "replicas" not in deployment["spec"], "applying it again would undo the autoscaler"


def test_image_and_user_are_those_of_the_dockerfile(pod, container, dockerfile):  # noqa: F811
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    image, _, tag = container["image"].rpartition(":")
    assert image.rpartition("/")[2] == compose["services"]["service"]["image"]
    assert tag == __version__
    context = pod["spec"]["securityContext"]
    user = last(dockerfile[1], "service", "USER")
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert not {"command", "args"} & set(container), "those of the image"


def test_a_pod_may_do_as_little_as_possible(pod, container):
    assert one("Namespace")["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    (mount,), (volume,) = container["volumeMounts"], spec["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/tmp"}
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}


def test_a_pod_gets_what_a_container_of_compose_gets(container):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    service = compose["services"]["service"]
    limits = container["resources"]["limits"]
    assert container["resources"]["requests"] == limits
    assert limits == {"cpu": str(service["cpus"]), "memory": "1Gi"}
    assert service["mem_limit"] == "1g"


def test_ports_are_those_of_the_image(pod, container, dockerfile):  # noqa: F811
    (port,) = container["ports"]
    assert str(port["containerPort"]) == last(dockerfile[1], "service", "EXPOSE")
    command = json.loads(last(dockerfile[1], "service", "CMD"))
    assert command[command.index("--port") + 1] == str(port["containerPort"])
    named = [one("Service")["spec"]["ports"][0]["targetPort"]]
    named += [
        container[f"{probe}Probe"]["httpGet"]["port"]
        for probe in ("startup", "readiness", "liveness")
    ]
    named += [rule["port"] for rule in one("NetworkPolicy")["spec"]["ingress"][0]["ports"]]
    assert set(named) == {port["name"]}
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])


def test_a_pod_ends_after_its_requests(pod, container):
    pytest.importorskip("fastapi")
    from cascade.serving.rest.server import GRACE_S

    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > wait + GRACE_S
    assert f"the {wait} seconds of preStop, and the {GRACE_S} that" in MANIFEST.read_text()


def test_paths_and_the_metric_exist_and_the_token_is_asked_for_where_it_must(pod, container):
    pytest.importorskip("fastapi")
    from rest_fakes import service

    (variable,) = container["env"]
    assert variable["name"] == "CASCADE_API_TOKEN"
    assert "value" not in variable, "a secret of the cluster"
    metrics_path = pod["metadata"]["annotations"]["prometheus.io/path"]
    probed = {
        container[f"{probe}Probe"]["httpGet"]["path"]: status
        for probe, status in (("startup", 200), ("readiness", 200), ("liveness", 200))
    }
    with service(ServiceSettings(), token="0123456789abcdef") as client:
        for path, status in probed.items():
            assert client.get(path).status_code == status, "without the token"
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        text = client.get(metrics_path, headers=headers).text
    assert re.search(rf"^# TYPE {scaled_by()} gauge$", text, re.MULTILINE)
    assert re.search(rf"^{scaled_by()} \d", text, re.MULTILINE), "without labels"


def scaled_by():
    (metric,) = one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["type"] == "Pods"
    return metric["pods"]["metric"]["name"]


def test_the_adapter_passes_on_the_metric_of_the_autoscaler():
    values = yaml.safe_load((DEPLOY / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = values["rules"]["custom"]
    assert rule["seriesQuery"].startswith(scaled_by() + "{")
    assert rule["name"]["as"] == scaled_by()
    assert re.fullmatch(rule["name"]["matches"], scaled_by())


def test_the_autoscaler_acts_before_a_queue_is_full():
    spec = one("HorizontalPodAutoscaler")["spec"]
    wanted = float(spec["metrics"][0]["pods"]["target"]["averageValue"])
    assert 0 < wanted < ServiceSettings().queue
    assert spec["minReplicas"] > one("PodDisruptionBudget")["spec"]["maxUnavailable"]


def test_pods_reach_nothing_and_only_those_named_reach_them():
    policy = one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule["from"]
    assert all(peer for peer in rule["from"]), "an empty peer is everybody"
