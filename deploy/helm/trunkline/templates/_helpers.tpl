{{- define "trunkline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Room is left for the suffixes of other objects. */}}
{{- define "trunkline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "trunkline.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "trunkline.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.selectorLabels" -}}
app.kubernetes.io/name: {{ include "trunkline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trunkline.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "trunkline.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: relay
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "trunkline.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "trunkline.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.headless" -}}
{{- default (printf "%s-internal" (include "trunkline.fullname" .)) .Values.headlessService.nameOverride -}}
{{- end -}}

{{/* "true" or nothing, as all the following. */}}
{{- define "trunkline.cluster" -}}
{{- if kindIs "bool" .Values.cluster.enabled -}}
{{- if .Values.cluster.enabled -}}true{{- end -}}
{{- else if or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) -}}
true
{{- end -}}
{{- end -}}

{{- define "trunkline.tls" -}}
{{- if or .Values.tls.existingSecret .Values.tls.certManager.enabled -}}true{{- end -}}
{{- end -}}

{{- define "trunkline.tlsSecret" -}}
{{- default (printf "%s-tls" (include "trunkline.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "trunkline.udp" -}}
{{- if kindIs "bool" .Values.service.udp.enabled -}}
{{- if .Values.service.udp.enabled -}}true{{- end -}}
{{- else -}}
{{- include "trunkline.tls" . -}}
{{- end -}}
{{- end -}}

{{- define "trunkline.drainSeconds" -}}
{{- if include "trunkline.cluster" . -}}
{{- add (int .Values.drain.delaySeconds) (int .Values.drain.windowSeconds) -}}
{{- else -}}
0
{{- end -}}
{{- end -}}

{{- define "trunkline.gracePeriod" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- max (add (include "trunkline.drainSeconds" . | int) 30) 35 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The host of exposedAddress, for certificates and routes that are not given one. */}}
{{- define "trunkline.host" -}}
{{- regexReplaceAll ":[0-9]+$" (regexReplaceAll "^rels?://" .Values.exposedAddress "") "" -}}
{{- end -}}

{{/* The UDP ports of the client's Service. */}}
{{- define "trunkline.udpPorts" -}}
{{- if include "trunkline.udp" . }}
- name: quic
  port: {{ .Values.service.port }}
  targetPort: {{ .Values.containerPort }}
  protocol: UDP
{{- end }}
{{- if .Values.stun.enabled }}
{{- range .Values.stun.ports }}
- name: stun-{{ . }}
  port: {{ . }}
  targetPort: {{ . }}
  protocol: UDP
{{- end }}
{{- end }}
{{- end -}}

{{/* What the schema cannot say; all mistakes at once. */}}
{{- define "trunkline.validate" -}}
{{- $wrong := list -}}
{{- $v := .Values -}}
{{- if not $v.exposedAddress -}}
{{- $wrong = append $wrong "exposedAddress: is required: what peers are told to connect to, such as rels://relay.example.com:443" -}}
{{- end -}}
{{- if and $v.exposedAddress (not (regexMatch "^(rels?://)?([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?$" $v.exposedAddress)) -}}
{{- $wrong = append $wrong (printf "exposedAddress: %q is no address of a relay: give rels://host:port, or rel://host:port where there is no TLS at all" $v.exposedAddress) -}}
{{- end -}}
{{- if not $v.auth.existingSecret -}}
{{- $wrong = append $wrong "auth.existingSecret: is required: the name of a Secret with the management server's relay secret (kubectl create secret generic relay-auth --from-file=auth-secret=FILE)" -}}
{{- end -}}
{{- if and (include "trunkline.cluster" .) (not $v.cluster.existingSecret) -}}
{{- $wrong = append $wrong "cluster.existingSecret: is required with more than one pod: the name of a Secret with the key by which pods know each other" -}}
{{- end -}}
{{- if and (not (include "trunkline.cluster" .)) (gt (int $v.replicaCount) 1) -}}
{{- $wrong = append $wrong "cluster.enabled: false with replicaCount above 1 makes separate relays: peers on different pods would never reach each other" -}}
{{- end -}}
{{- if and (hasPrefix "rels://" $v.exposedAddress | not) (include "trunkline.tls" .) $v.exposedAddress -}}
{{- $wrong = append $wrong "exposedAddress: must start with rels:// when TLS is on" -}}
{{- end -}}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled -}}
{{- $wrong = append $wrong "tls: existingSecret and certManager.enabled exclude each other" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- $wrong = append $wrong "tls.certManager.issuerRef.name: is required with certManager.enabled" -}}
{{- end -}}
{{- if lt (include "trunkline.gracePeriod" . | int) (add (include "trunkline.drainSeconds" . | int) 10 | int) -}}
{{- $wrong = append $wrong (printf "terminationGracePeriodSeconds: %s is too short for the drain: at least drain.delaySeconds + drain.windowSeconds + 10, or null" (include "trunkline.gracePeriod" .)) -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- $wrong = append $wrong "autoscaling: minReplicas is above maxReplicas" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not $v.autoscaling.targetCPUUtilizationPercentage) (not $v.autoscaling.targetPeers) -}}
{{- $wrong = append $wrong "autoscaling: neither targetCPUUtilizationPercentage nor targetPeers is set" -}}
{{- end -}}
{{- if and $v.ingress.enabled (include "trunkline.tls" .) -}}
{{- $wrong = append $wrong "ingress.enabled: an Ingress ends TLS itself; leave tls empty, or use service.type LoadBalancer or gateway.mode tls" -}}
{{- end -}}
{{- if and $v.gateway.enabled (not $v.gateway.parentRefs) -}}
{{- $wrong = append $wrong "gateway.parentRefs: is required with gateway.enabled" -}}
{{- end -}}
{{- if and $v.gateway.enabled (eq $v.gateway.mode "tls") (not (include "trunkline.tls" .)) -}}
{{- $wrong = append $wrong "gateway.mode: tls needs TLS in the pod: set tls.existingSecret or tls.certManager" -}}
{{- end -}}
{{- if and $v.gateway.enabled (eq $v.gateway.mode "http") (include "trunkline.tls" .) -}}
{{- $wrong = append $wrong "gateway.mode: http with TLS in the pod: use tls, or leave tls empty" -}}
{{- end -}}
{{- if and $v.gateway.udpParentRefs (not (include "trunkline.udp" .)) -}}
{{- $wrong = append $wrong "gateway.udpParentRefs: QUIC needs TLS in the pod: set tls.existingSecret or tls.certManager" -}}
{{- end -}}
{{/* Kubernetes' patch tells the ports of a Service apart by their numbers alone (kubernetes/kubernetes#39188): a UDP port that comes to the TCP
     port of the same number is lost without a word, and one that goes takes both along. Nothing is found where nothing runs yet. */ -}}
{{- $live := lookup "v1" "Service" .Release.Namespace (include "trunkline.fullname" .) -}}
{{- if $live -}}
{{- $has := "" -}}
{{- range $live.spec.ports -}}
{{- if and (eq .protocol "UDP") (eq (int .port) (int $v.service.port)) -}}{{- $has = "true" -}}{{- end -}}
{{- end -}}
{{- $wants := "" -}}
{{- if and (include "trunkline.udp" .) (not $v.service.udp.separate) -}}{{- $wants = "true" -}}{{- end -}}
{{- $delete := printf "or first run: kubectl -n %s delete service %s (it may get another address)" .Release.Namespace (include "trunkline.fullname" .) -}}
{{- if and $wants (not $has) -}}
{{- $wrong = append $wrong (printf "service: the one that runs has no UDP port, and Kubernetes cannot add one to the TCP port of the same number: set service.udp.separate: true, %s" $delete) -}}
{{- else if and $has (not $wants) -}}
{{- $wrong = append $wrong (printf "service: the one that runs has a UDP port, and Kubernetes cannot take it from the TCP port of the same number: set service.udp.enabled: true and service.udp.separate: false, %s" $delete) -}}
{{- end -}}
{{- end -}}
{{- if and $v.cluster.tls.allowPlain (not $v.cluster.tls.existingSecret) -}}
{{- $wrong = append $wrong "cluster.tls.allowPlain: without cluster.tls.existingSecret everything is plain already" -}}
{{- end -}}
{{- $ports := list (int $v.containerPort) (int $v.metricsPort) (int $v.healthPort) (int $v.cluster.port) -}}
{{- if ne (len (uniq $ports)) 4 -}}
{{- $wrong = append $wrong "containerPort, metricsPort, healthPort and cluster.port must differ" -}}
{{- end -}}
{{- $own := list "listen-address" "exposed-address" "auth-secret" "auth-secret-file" "metrics-port" "health-listen-address" "tls-cert-file" "tls-key-file" "trusted-proxies" "enable-stun" "stun-ports" "log-level" "log-format" "cluster-headless" "cluster-port" "pod-ip" "cluster-auth-secret" "cluster-auth-secret-file" "cluster-allow-one-way" "cluster-tls-cert-file" "cluster-tls-key-file" "cluster-tls-ca-file" "cluster-tls-name" "cluster-allow-plain" "drain-delay" "drain-window" -}}
{{- range $flag, $value := $v.settings -}}
{{- if not (regexMatch "^[a-z][a-z0-9]*(-[a-z0-9]+)*$" $flag) -}}
{{- $wrong = append $wrong (printf "settings.%s: is not how flags are written: lower case with dashes, without the leading --, such as peer-queue-bytes" $flag) -}}
{{- end -}}
{{- if has $flag $own -}}
{{- $wrong = append $wrong (printf "settings.%s: has a value of its own in this chart; see values.yaml" $flag) -}}
{{- end -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\nmistakes in the values:\n  %s\n" (join "\n  " $wrong)) -}}
{{- end -}}
{{- end -}}

{{/* TLSRoute and UDPRoute: v1, unless the cluster's Gateway API is so old that it serves their alpha version alone. */}}
{{- define "trunkline.routeVersion" -}}
{{- $served := (first .).Capabilities.APIVersions -}}
{{- $alpha := $served.Has (printf "gateway.networking.k8s.io/v1alpha2/%s" (last .)) -}}
{{- $stable := $served.Has (printf "gateway.networking.k8s.io/v1/%s" (last .)) -}}
gateway.networking.k8s.io/{{ if and $alpha (not $stable) }}v1alpha2{{ else }}v1{{ end }}
{{- end -}}

{{- define "trunkline.routeMetadata" }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "trunkline.labels" . | nindent 4 }}
  {{- with .Values.gateway.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "trunkline.clientService" }}
  type: {{ .Values.service.type }}
  selector:
    {{- include "trunkline.selectorLabels" . | nindent 4 }}
  {{- with .Values.service.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
  {{- with .Values.service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and .Values.service.externalTrafficPolicy (ne .Values.service.type "ClusterIP") }}
  externalTrafficPolicy: {{ .Values.service.externalTrafficPolicy }}
  {{- end }}
  sessionAffinity: {{ .Values.service.sessionAffinity }}
{{- end }}
{{- define "trunkline.clientServiceMetadata" }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "trunkline.labels" . | nindent 4 }}
    {{- with .Values.service.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := deepCopy .Values.service.annotations }}
  {{- if and .Values.ingress.enabled (eq .Values.ingress.controller "traefik") }}
  {{- /* It would speak TLS to port 443, whatever appProtocol says. */}}
  {{- $scheme := ternary "https" "http" (ne (include "trunkline.tls" .) "") }}
  {{- $annotations = merge $annotations (dict "traefik.ingress.kubernetes.io/service.serversscheme" $scheme) }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
