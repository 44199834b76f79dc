{{- define "kvtier.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "kvtier.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "kvtier.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "kvtier.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kvtier.selector" -}}
app.kubernetes.io/name: {{ include "kvtier.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kvtier.labels" -}}
{{ include "kvtier.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "kvtier.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end -}}

{{- /* The value of a class cannot be changed, so another value is another class. */ -}}
{{- define "kvtier.priorityClass" -}}
{{- if .Values.priorityClass.create -}}
{{ default (printf "%s-%d" (include "kvtier.fullname" .) (int .Values.priorityClass.value)) .Values.priorityClass.name }}
{{- else -}}
{{ .Values.priorityClass.name }}
{{- end -}}
{{- end -}}

{{- /* The profile's path below the kubelet's directory. Its content names it, so that an upgrade never changes it under a
running daemon. */ -}}
{{- define "kvtier.seccompProfile" -}}
{{- $seccomp := .Values.security.seccomp -}}
{{- if $seccomp.install -}}
kvtier/kvtierd-{{ .Files.Get "files/seccomp.json" | sha256sum | trunc 12 }}.json
{{- else -}}
{{ $seccomp.localhostProfile }}
{{- end -}}
{{- end -}}

{{- /* The port at the end of an address such as tcp://*:5557 or 0.0.0.0:9470. */ -}}
{{- define "kvtier.port" -}}
{{ regexFind "[0-9]+$" . }}
{{- end -}}

{{- /* Ports that routers dial, as a JSON list of numbers. */ -}}
{{- define "kvtier.eventPorts" -}}
{{- $events := .Values.config.events -}}
{{- $ports := list -}}
{{- range $events.bind }}{{ if hasPrefix "tcp://" . }}{{ $ports = append $ports (include "kvtier.port" . | int) }}{{ end }}{{ end -}}
{{- if hasPrefix "tcp://" (default "none" $events.replay) }}{{ $ports = append $ports (include "kvtier.port" $events.replay | int) }}{{ end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{- /* Mounts of the directories that the daemon writes to. */ -}}
{{- define "kvtier.directories" -}}
- {name: socket, mountPath: /run/kvtier}
{{- range .Values.nvme.volumes }}
- {name: nvme-{{ .name }}, mountPath: /var/lib/kvtier/nvme/{{ .name }}}
{{- end }}
{{- end -}}
