{{- /* What a schema cannot say: bounds of sizes and durations, and keys that depend on each other. All problems at once,
worded as kvtierd words them. */ -}}
{{- define "kvtier.check" -}}
{{- $problems := concat (include "kvtier.checkBounds" . | fromJsonArray) (include "kvtier.checkTogether" . | fromJsonArray) -}}
{{- /* What follows would only be said again in other words. */ -}}
{{- if not $problems }}{{ $problems = include "kvtier.checkShares" . | fromJsonArray }}{{ end -}}
{{- if not $problems }}{{ $problems = include "kvtier.checkPod" . | fromJsonArray }}{{ end -}}
{{- if $problems }}{{ fail (printf "\n\nthe values do not fit:\n  - %s\n" (join "\n  - " $problems)) }}{{ end -}}
{{- end -}}

{{- define "kvtier.checkBounds" -}}
{{- $problems := list -}}
{{- $config := .Values.config -}}
{{- $sizes := list
  (list "host.capacity" "8MiB" "3TiB") (list "host.arena-bytes" "2MiB" "16GiB")
  (list "nvme.capacity" "64MiB" "64TiB") (list "nvme.segment-bytes" "1MiB" "32GiB")
  (list "nvme.write-rate" "64KiB" "1TiB") (list "nvme.scrub-rate" "64KiB" "1TiB")
  (list "remote.read-bytes" "1MiB" "64GiB") (list "remote.write-bytes" "1MiB" "64GiB") (list "remote.capacity" "1MiB" "1024TiB") (list "remote.reserve" "1MiB" "1024TiB")
  (list "limits.ring-bytes" "1MiB" "1TiB") -}}
{{- range $name, $_ := $config.tenants }}
  {{- $sizes = append $sizes (list (printf "tenants.%s.capacity" $name) "8MiB" "3TiB") -}}
  {{- $sizes = append $sizes (list (printf "tenants.%s.nvme-capacity" $name) "64MiB" "64TiB") -}}
{{- end -}}
{{- range $sizes }}
  {{- $value := include "kvtier.find" (list $config (index . 0)) -}}
  {{- if and $value (not (hasSuffix "%" $value)) (not (has $value (list "auto" "none" "0" "0B"))) -}}
    {{- $bytes := include "kvtier.bytes" $value | int64 -}}
    {{- if or (lt $bytes (include "kvtier.bytes" (index . 1) | int64)) (gt $bytes (include "kvtier.bytes" (index . 2) | int64)) -}}
      {{- $problems = append $problems (printf "config.%s: want a size from %s to %s, got %q" (index . 0) (index . 1) (index . 2) $value) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range list
  (list "shutdown-deadline" "0s" "1h") (list "nvme.promotion-deadline" "0s" "1min") (list "events.batch-delay" "0s" "10s")
  (list "remote.promotion-deadline" "0s" "1min") (list "remote.write-deadline" "100ms" "10min") (list "remote.age-max" "1min" "87600h")
  (list "remote.sweep-every" "10s" "24h") (list "tracing.timeout" "10ms" "1min") (list "limits.handshake-deadline" "10ms" "1min") }}
  {{- $value := include "kvtier.find" (list $config (index . 0)) -}}
  {{- if and $value (ne $value "none") -}}
    {{- $ms := include "kvtier.milliseconds" $value | int64 -}}
    {{- if or (lt $ms (include "kvtier.milliseconds" (index . 1) | int64)) (gt $ms (include "kvtier.milliseconds" (index . 2) | int64)) -}}
      {{- $problems = append $problems (printf "config.%s: want a duration from %s to %s, got %q" (index . 0) (index . 1) (index . 2) $value) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $problems | toJson -}}
{{- end -}}

{{- /* The value at a dotted place, as text; empty if there is none. */ -}}
{{- define "kvtier.find" -}}
{{- $place := index . 0 -}}
{{- range splitList "." (index . 1) }}{{ if kindIs "map" $place }}{{ $place = get $place . }}{{ end }}{{ end -}}
{{- if not (kindIs "invalid" $place) }}{{ toString $place }}{{ end -}}
{{- end -}}

{{- define "kvtier.checkTogether" -}}
{{- $problems := list -}}
{{- $config := .Values.config -}}
{{- range list (list "host" 0.95 0.98) (list "nvme" 0.9 0.95) }}
  {{- $table := get $config (index . 0) -}}
  {{- $low := default (index . 1) (get $table "watermark-low") | float64 -}}
  {{- $high := default (index . 2) (get $table "watermark-high") | float64 -}}
  {{- if not (lt $low $high) -}}
    {{- $problems = append $problems (printf "config.%s.watermark-low: want 0 < low < high <= 1, got low %v high %v" (index . 0) $low $high) -}}
  {{- end -}}
{{- end -}}
{{- $host := $config.host -}}
{{- $pages := default "never" (get $host "huge-pages") -}}
{{- if eq $pages "try" -}}
  {{- $problems = append $problems "config.host.huge-pages: a pod has the huge pages that it asks for and no others, so there is nothing to try; want \"never\" or \"require\"" -}}
{{- end -}}
{{- if and (eq $pages "require") (eq (default "start" $host.prefault) "lazy") -}}
  {{- $problems = append $problems "config.host.prefault: \"lazy\" lets engines take the memory, and their pods have no huge pages; want \"start\" beside huge-pages \"require\"" -}}
{{- end -}}
{{- $events := $config.events -}}
{{- if and (ne (default "none" $events.replay) "none") (not $events.bind) -}}
  {{- $problems = append $problems "config.events.replay: want events.bind as well: what is replayed is what bound sockets have sent" -}}
{{- end -}}
{{- range $events.connect }}
  {{- if regexMatch "^tcp://\\*" . -}}
    {{- $problems = append $problems (printf "config.events.connect: want the addresses of routers, got %s, which is every interface of this machine" .) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $tenant := $config.tenants }}
  {{- if and (or (hasKey $tenant "uids") (hasKey $tenant "gids")) (not $tenant.uids) (not $tenant.gids) -}}
    {{- $problems = append $problems (printf "config.tenants.%s.uids: want at least one uid or gid, or nobody could attach" $name) -}}
  {{- end -}}
{{- end -}}
{{- $problems | toJson -}}
{{- end -}}

{{- /* Arenas, shares and segments. */ -}}
{{- define "kvtier.checkShares" -}}
{{- $problems := list -}}
{{- $config := .Values.config -}}
{{- $disk := include "kvtier.bytes" (default "10GiB" $config.nvme.capacity) | int64 -}}
{{- $own := 0 -}}
{{- range $config.tenants }}{{ $share := get . "nvme-capacity" }}{{ if $share }}{{ $own = add $own (include "kvtier.bytes" $share | int64) }}{{ end }}{{ end -}}
{{- if gt $own $disk -}}
  {{- $problems = append $problems (printf "config.nvme.capacity: want at least %d bytes, which the tenants' nvme-capacity come to, got %d" $own $disk) -}}
{{- else -}}
{{- range include "kvtier.tenants" . | fromJsonArray }}
  {{- $arena := int64 .arena -}}
  {{- if mod $arena 2097152 -}}
    {{- $problems = append $problems (printf "config.host.arena-bytes: want a multiple of 2MiB, got %d bytes" $arena) -}}
  {{- end -}}
  {{- if gt $arena (div (int64 .capacity) 2) -}}
    {{- $problems = append $problems (printf "config.host.arena-bytes: want at most half of the capacity of tenant %s, got %d bytes" .name $arena) -}}
  {{- end -}}
  {{- if $.Values.nvme.volumes -}}
    {{- $share := int64 .share -}}
    {{- $segment := get $config.nvme "segment-bytes" -}}
    {{- if or (not $segment) (eq (toString $segment) "auto") -}}
      {{- $segment = max (min (max (div $share 64) 4194304) 1073741824) (add $arena 8192) -}}
    {{- else -}}
      {{- $segment = include "kvtier.bytes" $segment | int64 -}}
    {{- end -}}
    {{- if or (mod $segment 4096) (lt $segment (add $arena 8192)) -}}
      {{- $problems = append $problems (printf "config.nvme.segment-bytes: want a multiple of 4KiB of at least %d bytes, so that a block as large as an arena fits, got %d" (add $arena 8192) $segment) -}}
    {{- end -}}
    {{- $catalogue := max (div $share 32) 16777216 -}}
    {{- $count := div (sub $share $catalogue) $segment -}}
    {{- if or (lt $count 4) (gt $count 65536) -}}
      {{- $problems = append $problems (printf "config.nvme.capacity: want room for 4 to 65536 segments of %d bytes beside the catalogue for tenant %s, got %d" $segment .name $count) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- $problems | uniq | toJson -}}
{{- end -}}

{{- define "kvtier.checkPod" -}}
{{- $problems := concat (include "kvtier.checkRemote" . | fromJsonArray) (include "kvtier.checkAdmin" . | fromJsonArray) -}}
{{- $values := .Values -}}
{{- $names := list -}}
{{- range $values.nvme.volumes }}
  {{- if has .name $names }}{{ $problems = append $problems (printf "nvme.volumes: want each name once, got %s twice" .name) }}{{ end -}}
  {{- $names = append $names .name -}}
{{- end -}}
{{- if $values.resources.memory -}}
  {{- $least := sub (include "kvtier.memoryBytes" . | int64) (include "kvtier.bytes" $values.resources.memoryExtra | int64) -}}
  {{- if lt (include "kvtier.quantityBytes" $values.resources.memory | int64) $least -}}
    {{- $problems = append $problems (printf "resources.memory: want at least %s for this configuration, got %s; or lower config.host.capacity, or leave it to be computed" (include "kvtier.mebibytes" $least) $values.resources.memory) -}}
  {{- end -}}
{{- end -}}
{{- $seccomp := $values.security.seccomp -}}
{{- if and (eq $seccomp.type "Localhost") (not $seccomp.install) (not $seccomp.localhostProfile) -}}
  {{- $problems = append $problems "security.seccomp.localhostProfile: want the path of the profile, which the chart is not to install" -}}
{{- end -}}
{{- if and (eq (get $values.config.nvme "io" | default "auto") "io-uring") (eq $seccomp.type "RuntimeDefault") -}}
  {{- $problems = append $problems "config.nvme.io: \"io-uring\" is forbidden by the profile of most container runtimes; want security.seccomp.type \"Localhost\" beside it, or \"auto\"" -}}
{{- end -}}
{{- if and $values.serviceMonitor.enabled $values.podMonitor.enabled -}}
  {{- $problems = append $problems "podMonitor.enabled: every daemon would be scraped twice; want one of serviceMonitor and podMonitor" -}}
{{- end -}}
{{- if and $values.networkPolicy.enabled (include "kvtier.eventPorts" . | fromJsonArray) (not $values.networkPolicy.eventsFrom) -}}
  {{- $problems = append $problems "networkPolicy.eventsFrom: want the routers that may read which tokens are cached, since config.events.bind opens a port" -}}
{{- end -}}
{{- $problems | toJson -}}
{{- end -}}

{{- define "kvtier.checkAdmin" -}}
{{- $problems := list -}}
{{- $tls := .Values.admin.tls -}}
{{- if $tls.enabled -}}
  {{- range list "server" "clientCa" }}
    {{- if not (get (get $tls .) "secretName") }}{{ $problems = append $problems (printf "admin.tls.%s.secretName: want a Secret, because admin.tls.enabled is set" .) }}{{ end -}}
  {{- end -}}
  {{- $taken := concat (include "kvtier.eventPorts" . | fromJsonArray) (list (include "kvtier.port" .Values.config.metrics.listen | int)) -}}
  {{- range $taken }}
    {{- if eq (int .) (int $tls.port) }}{{ $problems = append $problems (printf "admin.tls.port: want another port than those of metrics and events, got %d" (int .)) }}{{ end -}}
  {{- end -}}
  {{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.adminFrom) -}}
    {{- $problems = append $problems "networkPolicy.adminFrom: want those who may reach the admin API, since admin.tls.enabled opens a port" -}}
  {{- end -}}
{{- end -}}
{{- $problems | uniq | toJson -}}
{{- end -}}

{{- define "kvtier.checkRemote" -}}
{{- $problems := list -}}
{{- $config := .Values.config.remote -}}
{{- $remote := .Values.remote -}}
{{- $kind := default "none" $config.kind -}}
{{- $from := default "environment" $config.credentials -}}
{{- if and (eq $kind "mount") (not $remote.volume) -}}
  {{- $problems = append $problems "remote.volume: want what is mounted, because config.remote.kind is \"mount\"" -}}
{{- end -}}
{{- if and (ne $kind "mount") $remote.volume -}}
  {{- $problems = append $problems "remote.volume: want config.remote.kind \"mount\" with it" -}}
{{- end -}}
{{- if eq (get $config "mount-check" | default "auto") "required" -}}
  {{- $problems = append $problems "config.remote.mount-check: in a pod the directory is always a mount, so the check would always pass; want \"auto\", and a hostPath below the mount, which is not there without it" -}}
{{- end -}}
{{- $isStore := has $kind (list "s3" "gcs" "azure") -}}
{{- if and $isStore (not $config.bucket) -}}
  {{- $problems = append $problems (printf "config.remote.bucket: want the name of a %s, because config.remote.kind is %q" (ternary "container" "bucket" (eq $kind "azure")) $kind) -}}
{{- end -}}
{{- if and (eq $kind "azure") (not $config.account) -}}
  {{- $problems = append $problems "config.remote.account: want the storage account that has the container, because config.remote.kind is \"azure\"" -}}
{{- end -}}
{{- if and (ne $kind "azure") (ne (default "none" $config.account) "none") -}}
  {{- $problems = append $problems "config.remote.account: want config.remote.kind \"azure\" with it" -}}
{{- end -}}
{{- if ne $kind "s3" -}}
  {{- range list "region" "credentials-profile" }}{{ if ne (default "none" (get $config .)) "none" }}{{ $problems = append $problems (printf "config.remote.%s: want config.remote.kind \"s3\" with it" .) }}{{ end }}{{ end -}}
{{- end -}}
{{- if has $kind (list "gcs" "azure") -}}
  {{- if ne (default "path" $config.addressing) "path" }}{{ $problems = append $problems "config.remote.addressing: want config.remote.kind \"s3\" with it" }}{{ end -}}
  {{- if ne (get $config "sign-payload" | default "always") "always" }}{{ $problems = append $problems "config.remote.sign-payload: want config.remote.kind \"s3\" with it" }}{{ end -}}
{{- end -}}
{{- if not $isStore -}}
  {{- range list "bucket" "endpoint" }}{{ if ne (default "none" (get $config .)) "none" }}{{ $problems = append $problems (printf "config.remote.%s: want config.remote.kind \"s3\", \"gcs\" or \"azure\" with it" .) }}{{ end }}{{ end -}}
  {{- range list "credentialsSecret" "credentialsFile" "caFile" }}{{ if get $remote . }}{{ $problems = append $problems (printf "remote.%s: want config.remote.kind \"s3\", \"gcs\" or \"azure\" with it" .) }}{{ end }}{{ end -}}
{{- else -}}
  {{- if and (eq $from "environment") (eq $kind "gcs") -}}
    {{- $problems = append $problems "config.remote.credentials: want \"file\", \"identity\" or \"anonymous\" with config.remote.kind \"gcs\": its environment only names a file" -}}
  {{- else if and (eq $from "environment") (not $remote.credentialsSecret) -}}
    {{- $problems = append $problems "remote.credentialsSecret: want a Secret, because config.remote.credentials is \"environment\"" -}}
  {{- end -}}
  {{- if and (ne $from "environment") $remote.credentialsSecret -}}
    {{- $problems = append $problems "remote.credentialsSecret: want config.remote.credentials \"environment\" with it" -}}
  {{- end -}}
  {{- if and (eq $from "file") (not $remote.credentialsFile) -}}
    {{- $problems = append $problems "remote.credentialsFile: want a Secret and its key, because config.remote.credentials is \"file\"" -}}
  {{- end -}}
  {{- if and (ne $from "file") $remote.credentialsFile -}}
    {{- $problems = append $problems "remote.credentialsFile: want config.remote.credentials \"file\" with it" -}}
  {{- end -}}
{{- end -}}
{{- $problems | toJson -}}
{{- end -}}
