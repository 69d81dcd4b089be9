{{- define "mesh.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: mesh
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "mesh.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{- /* What the chart itself decides of the agent's settings, and all that agent.settings adds. */ -}}
{{- define "mesh.settings" -}}
{{- $own := dict
  "kubernetes" "in-cluster"
  "trust_domain" .Values.trustDomain
  "cluster_domain" .Values.clusterDomain
  "root_namespace" .Release.Namespace
  "handover" "wait"
  "admin_addr" (printf "127.0.0.1:%d" (int .Values.agent.adminPort)) -}}
{{- if .Values.metrics.tokenSecret -}}
{{- $_ := set $own "admin_addr" (printf "0.0.0.0:%d" (int .Values.agent.adminPort)) -}}
{{- $_ := set $own "admin_token_file" "/var/run/secrets/mesh-admin/token" -}}
{{- end -}}
{{- if .Values.ca.enabled -}}
{{- $_ := set $own "ca_addr" (printf "mesh-ca.%s.svc:15012" .Release.Namespace) -}}
{{- $_ := set $own "ca_root_file" "/var/run/mesh-ca/roots.pem" -}}
{{- $_ := set $own "ca_token_file" "/var/run/secrets/mesh-ca/token" -}}
{{- end -}}
{{- toYaml (merge (deepCopy .Values.agent.settings) $own) -}}
{{- end }}

{{- define "mesh.scrape" -}}
{{- if .root.Values.metrics.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ .port | quote }}
{{- end }}
{{- end }}

{{- define "mesh.checked" -}}
{{- if and (or .Values.metrics.annotations .Values.metrics.podMonitor.enabled) (not .Values.metrics.tokenSecret) -}}
{{- fail "metrics.annotations and metrics.podMonitor need metrics.tokenSecret: without a token nobody beyond the node reads metrics" -}}
{{- end -}}
{{- end }}
