"""The Helm chart, as Kubernetes gets to see it: lint, rendering, schemas, what is in it, and what wrong values are told.

chart.py PROGRAM; run by tests/deploy.rs with the Python of a virtual environment that has kubernetes-validate. Says each mistake it finds and
ends with 1 if there was any.
"""

import json
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/trunkline"
KUBERNETES = ["1.27", "1.31", "1.34"]
# Not Kubernetes' own: there are no schemas for them in the package, so their shape is asserted below.
CUSTOM = {"Certificate", "HTTPRoute", "TLSRoute", "UDPRoute", "ServiceMonitor", "PrometheusRule"}


mistakes = []


def check(holds, what):
    if not holds:
        mistakes.append(what)


def helm(*args):
    return subprocess.run(["helm", *args], capture_output=True, text=True)


def render(values, *sets, version="1.31", release="r", flags=()):
    flags = [*flags, *(flag for one in sets for flag in ("--set", one))]
    return helm("template", release, str(CHART), "-f", str(values), "-n", "mesh", "--kube-version", version, *flags)


def objects(values, *sets, **more):
    result = render(values, *sets, **more)
    check(result.returncode == 0, f"{values.name} {sets}: {result.stderr}")
    found = [one for one in yaml.safe_load_all(result.stdout) if one]
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    check(len(names) == len(set(names)), f"{values.name}: two objects of one name: {names}")
    check(all(one["metadata"]["namespace"] == "mesh" for one in found), f"{values.name}: an object without the namespace")
    return dict(zip(names, found))


def environment(deployment):
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {one["name"]: one.get("value") for one in container["env"]}


values = sorted(CHART.glob("ci/*.yaml"))
one_pod, three_pods = CHART / "ci/one-pod.yaml", CHART / "ci/three-pods.yaml"
drop_in = CHART / "values-openzro.yaml"
check(len(values) > 6, "the matrix of values is gone")

# Lint, strictly, with each set of values.
for path in values:
    result = helm("lint", "--strict", str(CHART), "-f", str(path), "--kube-version", "1.31")
    check(result.returncode == 0, f"lint {path.name}: {result.stdout}{result.stderr}")

# Every object fits the schema of old and new Kubernetes, strictly: a name that is written wrong is a mistake.
seen = set()
for path in values:
    for version in KUBERNETES:
        for (kind, name), one in objects(path, version=version).items():
            seen.add(kind)
            if kind in CUSTOM:
                continue
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except Exception as error:
                mistakes.append(f"{path.name}, Kubernetes {version}, {kind} {name}: {error}")
wanted = {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "Ingress"}
check(wanted | (CUSTOM - {"PrometheusRule"}) <= seen, f"never rendered: {sorted(wanted - seen)}")

# Each variable is a flag of the program.
program = sys.argv[1]
flags = set(re.findall(r"^ +(?:-., )?--([a-z0-9-]+)", subprocess.run([program, "--help"], capture_output=True, text=True).stdout, re.M))
check("listen-address" in flags, "the help of the program cannot be read")
for path in values:
    for (kind, _), one in objects(path).items():
        if kind == "Deployment":
            named = {name.removeprefix("TRUNKLINE_").lower().replace("_", "-") for name in environment(one) if name.startswith("TRUNKLINE_")}
            check(named <= flags, f"{path.name}: no flags of the program: {sorted(named - flags)}")

# One pod.
found = objects(one_pod)
deployment = found["Deployment", "r-trunkline"]
pod = deployment["spec"]["template"]["spec"]
container = pod["containers"][0]
check(not any(name.startswith("TRUNKLINE_CLUSTER") for name in environment(deployment)), "one pod needs no cluster")
check(("PodDisruptionBudget", "r-trunkline") not in found, "a budget for one pod would stop every drain of its node")
check(container["securityContext"]["readOnlyRootFilesystem"] is True, "the root file system is writable")
check(container["securityContext"]["capabilities"]["drop"] == ["ALL"], "capabilities are left")
check(pod["securityContext"]["runAsNonRoot"] is True, "it may run as root")
check(pod["automountServiceAccountToken"] is False, "it holds a token of the Kubernetes API")
check(pod["terminationGracePeriodSeconds"] == 35, f"the grace period of one pod: {pod['terminationGracePeriodSeconds']}")
check(container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}, "liveness")
check(container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}, "readiness")

# Three pods.
found = objects(three_pods)
deployment = found["Deployment", "r-trunkline"]
pod = deployment["spec"]["template"]["spec"]
container = pod["containers"][0]
env = environment(deployment)
check(env["TRUNKLINE_CLUSTER_HEADLESS"] == "r-trunkline-internal", "the name that pods look up")
pod_ip = next(one for one in container["env"] if one["name"] == "POD_IP")
check(pod_ip["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP", "POD_IP")
drain = sum(int(env[name].rstrip("s")) for name in ("TRUNKLINE_DRAIN_DELAY", "TRUNKLINE_DRAIN_WINDOW"))
check(pod["terminationGracePeriodSeconds"] == drain + 30, "the grace period is not the drain and the 30 s of a shutdown")
for delay, window in [(0, 0), (2, 10), (10, 15)]:
    longest = objects(three_pods, f"drain.delaySeconds={delay}", f"drain.windowSeconds={window}")["Deployment", "r-trunkline"]
    grace = longest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    check(grace == max(35, delay + window + 30), f"grace period of {grace} s for a drain of {delay} s and {window} s")
headless = found["Service", "r-trunkline-internal"]["spec"]
check(headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"] is True, "the headless Service")
service = found["Service", "r-trunkline"]["spec"]
ports = {(one["port"], one["protocol"]) for one in service["ports"]}
check(ports == {(443, "TCP"), (443, "UDP"), (3478, "UDP"), (3479, "UDP")}, f"ports of the client's Service: {ports}")
targets = {one["name"]: one["containerPort"] for one in container["ports"]}
for one in service["ports"] + headless["ports"]:
    check(one["targetPort"] in targets or one["targetPort"] in targets.values(), f"{one['name']} leads nowhere")
check(env["TRUNKLINE_MAX_CONNECTIONS"] == "1000000", f"a large number is written as {env['TRUNKLINE_MAX_CONNECTIONS']}")
secrets = {one["name"]: one["secret"]["secretName"] for one in pod["volumes"]}
check(
    secrets == {"auth": "relay-auth", "tls": "relay-tls", "cluster": "relay-cluster", "cluster-tls": "relay-cluster-tls"},
    f"mounted secrets: {secrets}",
)
mounts = {one["name"]: one for one in container["volumeMounts"]}
check(all("subPath" not in one and one["readOnly"] for one in mounts.values()), "a mount that is never renewed, or writable")
for name, value in env.items():
    if name.endswith("_FILE"):
        at = [one for one in mounts.values() if value.startswith(one["mountPath"] + "/")]
        check(len(at) == 1, f"{name}={value} is not below a mount")
check(not any("secretKeyRef" in json.dumps(one) for one in container["env"]), "a secret in the environment")
labels = deployment["spec"]["selector"]["matchLabels"]
check(labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items(), "the selector does not fit the pods")
policy = found["NetworkPolicy", "r-trunkline"]["spec"]
by_port = {one["ports"][0]["port"]: one for one in policy["ingress"]}
check(set(by_port) == {"peers", "cluster", "metrics"}, f"ports that are let in: {set(by_port)}")
check(by_port["cluster"]["from"] == [{"podSelector": {"matchLabels": labels}}], "who may reach the cluster's port")
check(list(by_port["metrics"]["from"][0]) == ["namespaceSelector"], "who may reach the metrics")
check("from" not in by_port["peers"], "peers are kept out")
monitor = found["ServiceMonitor", "r-trunkline"]["spec"]
selected = [name for (kind, name), one in found.items() if kind == "Service" and monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()]
check(selected == ["r-trunkline-internal"], f"scraped by way of {selected}")
check(len(pod["topologySpreadConstraints"]) == 2, "spread over zones and nodes")

# By size.
found = objects(CHART / "ci/autoscaled.yaml")
scaler = found["HorizontalPodAutoscaler", "r-trunkline"]["spec"]
check([one["type"] for one in scaler["metrics"]] == ["Resource", "Pods"], "scaled by CPU and by peers")
check("replicas" not in found["Deployment", "r-trunkline"]["spec"], "the Deployment fights its autoscaler")
check(found["PodDisruptionBudget", "r-trunkline"]["spec"]["minAvailable"] == "50%", "the budget")
check({one["protocol"] for one in found["Service", "r-trunkline-udp"]["spec"]["ports"]} == {"UDP"}, "UDP by itself")
# Kubernetes' patch takes two ports of one number for the same one, whatever their protocols.
numbers = [one["containerPort"] for one in found["Deployment", "r-trunkline"]["spec"]["template"]["spec"]["containers"][0]["ports"]]
check(len(numbers) == len(set(numbers)), f"two container ports of one number: {numbers}")
check(found["Service", "r-trunkline-udp"]["spec"]["ports"][0]["targetPort"] in numbers, "QUIC arrives at the peers' port")
check(found["UDPRoute", "r-trunkline"]["spec"]["rules"][0]["backendRefs"][0] == {"name": "r-trunkline-udp", "port": 443}, "UDPRoute")
# Routes that were alpha: the version that the cluster serves, and the stable one where that is not known.
for kind in ("TLSRoute", "UDPRoute"):
    for served, version in [([], "v1"), (["v1alpha2"], "v1alpha2"), (["v1alpha2", "v1"], "v1")]:
        flags = [f"--api-versions=gateway.networking.k8s.io/{one}/{kind}" for one in served]
        route = objects(CHART / "ci/autoscaled.yaml", flags=flags)[kind, "r-trunkline"]
        check(route["apiVersion"] == f"gateway.networking.k8s.io/{version}", f"{kind} where {served} is served: {route['apiVersion']}")
check(found["TLSRoute", "r-trunkline"]["spec"]["hostnames"] == ["relay.example.com"], "TLSRoute")
check(found["Certificate", "r-trunkline"]["spec"]["dnsNames"] == ["relay.example.com"], "Certificate")

# Through an Ingress or a Gateway.
idle = {
    "nginx": ("nginx.ingress.kubernetes.io/proxy-read-timeout", "3600"),
    "haproxy": ("haproxy.org/timeout-tunnel", "1h"),
    "alb": ("alb.ingress.kubernetes.io/load-balancer-attributes", "idle_timeout.timeout_seconds=3600"),
    "traefik": ("example.com/own", "1"),
}
for controller, (name, value) in idle.items():
    ingress = objects(CHART / f"ci/ingress-{controller}.yaml")["Ingress", "r-trunkline"]
    check(ingress["metadata"]["annotations"][name] == value, f"{controller}: {ingress['metadata']['annotations']}")
    check(ingress["metadata"]["annotations"]["example.com/own"] == "1", f"{controller}: own annotations are lost")
    check(ingress["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/relay", f"{controller}: path")
service = objects(CHART / "ci/ingress-traefik.yaml")["Service", "r-trunkline"]
scheme = {"traefik.ingress.kubernetes.io/service.serversscheme": "http"}
check(service["metadata"]["annotations"] == scheme, "Traefik would speak TLS to port 443")
check("annotations" not in objects(CHART / "ci/ingress-nginx.yaml")["Service", "r-trunkline"]["metadata"], "annotations of another controller")
route = objects(CHART / "ci/gateway-http.yaml")["HTTPRoute", "r-trunkline"]["spec"]
check(route["rules"][0]["timeouts"] == {"request": "0s"}, "a gateway that cuts peers off")
removed = route["rules"][0]["filters"][0]["requestHeaderModifier"]["remove"]
check(removed == ["X-Real-Ip", "X-Real-Port", "Forwarded"], "clients behind a gateway can choose their address")
check(route["rules"][0]["backendRefs"] == [{"name": "r-trunkline", "port": 443}], "HTTPRoute")

# In the place of openZro's relay: the names and ports of its chart.
found = objects(drop_in, "exposedAddress=rels://relay.example.com:443", "replicaCount=2", release="openzro-relay")
check(("Deployment", "openzro-relay") in found and ("Service", "openzro-relay-internal") in found, f"names: {list(found)}")
check(found["Service", "openzro-relay"]["spec"]["ports"][0]["port"] == 33080, "openZro's port")
env = environment(found["Deployment", "openzro-relay"])
check(env["TRUNKLINE_LISTEN_ADDRESS"] == ":33080" and env["TRUNKLINE_METRICS_PORT"] == "9090", "openZro's ports")
check(env["TRUNKLINE_CLUSTER_HEADLESS"] == "openzro-relay-internal", "openZro's headless Service")
check(env["TRUNKLINE_CLUSTER_AUTH_SECRET_FILE"] == "/etc/trunkline/cluster/authSecret", "openZro's key")

# Rules and dashboards are copies, because a chart cannot reach out of its folder; these are the same as their originals.
for original, copy in (("deploy/grafana", "files/dashboards"), ("deploy/prometheus", "files/rules")):
    ending = "*.json" if "grafana" in original else "*rules*.yaml"
    originals = {one.name: one.read_bytes() for one in (ROOT / original).glob(ending) if "test" not in one.name}
    copies = {one.name: one.read_bytes() for one in (CHART / copy).glob("*")}
    check(originals == copies, f"cp {original}/{ending} deploy/helm/trunkline/{copy}/ (and nothing else is there)")
    if copies and "grafana" in original:
        config = objects(one_pod, "dashboard.enabled=true")["ConfigMap", "r-trunkline-dashboard"]
        check(set(config["data"]) == set(originals), "dashboards in the ConfigMap")
        check(all(config["data"][name].encode() == text for name, text in originals.items()), "a dashboard is changed on its way")
    elif copies:
        rule = objects(one_pod, "prometheusRule.enabled=true")["PrometheusRule", "r-trunkline"]
        groups = [group for text in originals.values() for group in yaml.safe_load(text)["groups"]]
        check(rule["spec"]["groups"] == groups, "rules are changed on their way")

# What wrong values are told.
wrong = [
    (one_pod, ["exposedAddress="], "exposedAddress: is required"),
    (one_pod, ["exposedAddress=https://relay.example.com"], "give rels://host:port"),
    (one_pod, ["auth.existingSecret="], "auth.existingSecret: is required"),
    (one_pod, ["exposedAddress=", "auth.existingSecret=", "replicaCount=2"], "exposedAddress: is required,auth.existingSecret: is required,cluster.existingSecret: is required"),
    (one_pod, ["replicaCount=two"], "at '/replicaCount': got string, want integer"),
    (one_pod, ["cluser.enabled=true"], "additional properties 'cluser' not allowed"),
    (one_pod, ["service.type=ExternalName"], "'ClusterIP', 'NodePort', 'LoadBalancer'"),
    (one_pod, ["log.level=loud"], "'trace', 'debug', 'info', 'warn', 'error'"),
    (one_pod, ["containerPort=443"], "at '/containerPort': minimum: got 443, want 1,024"),
    (one_pod, ["containerPort=9090"], "must differ"),
    (one_pod, ["settings.listen-address=:1"], "settings.listen-address: has a value of its own"),
    (one_pod, ["settings.peerQueueBytes=1MiB"], "settings.peerQueueBytes: is not how flags are written"),
    (one_pod, ["tls.existingSecret=x", "exposedAddress=rel://relay.example.com"], "must start with rels://"),
    (one_pod, ["tls.existingSecret=x", "ingress.enabled=true"], "an Ingress ends TLS itself"),
    (one_pod, ["tls.certManager.enabled=true"], "tls.certManager.issuerRef.name: is required"),
    (one_pod, ["gateway.enabled=true"], "gateway.parentRefs: is required"),
    (three_pods, ["cluster.enabled=false"], "peers on different pods would never reach each other"),
    (three_pods, ["cluster.existingSecret="], "cluster.existingSecret: is required"),
    (three_pods, ["terminationGracePeriodSeconds=20"], "too short for the drain"),
    (three_pods, ["cluster.tls.existingSecret="], "everything is plain already"),
    (CHART / "ci/autoscaled.yaml", ["autoscaling.minReplicas=30"], "minReplicas is above maxReplicas"),
    (CHART / "ci/autoscaled.yaml", ["autoscaling.targetPeers=null", "autoscaling.targetCPUUtilizationPercentage=null"], "neither"),
]
for path, sets, told in wrong:
    result = render(path, *sets)
    check(result.returncode != 0, f"{sets} is taken")
    for part in told.split(",") if "is required," in told else [told]:
        check(part in result.stderr, f"{sets}: is not told {part!r}, but: {result.stderr}")

for mistake in mistakes:
    print(mistake, file=sys.stderr)
print(f"chart: {len(values)} sets of values, {len(wrong)} wrong ones, {len(mistakes)} mistakes")
sys.exit(1 if mistakes else 0)
