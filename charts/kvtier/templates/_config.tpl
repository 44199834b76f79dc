{{- /* The tenants, with what holds for each: a JSON list of {name, capacity, nvme}, sizes in bytes. Arithmetic as in
kvstore/src/config: arenas, shares and segments. */ -}}
{{- define "kvtier.tenants" -}}
{{- $config := .Values.config -}}
{{- $host := default "1GiB" $config.host.capacity -}}
{{- $disk := include "kvtier.bytes" (default "10GiB" $config.nvme.capacity) | int64 -}}
{{- $named := $config.tenants -}}
{{- if not $named }}{{ $named = dict "default" dict }}{{ end -}}
{{- $own := 0 -}}
{{- $sharing := 0 -}}
{{- range $named }}
  {{- $share := get . "nvme-capacity" -}}
  {{- if $share }}{{ $own = add $own (include "kvtier.bytes" $share | int64) }}{{ else }}{{ $sharing = add1 $sharing }}{{ end -}}
{{- end -}}
{{- $tenants := list -}}
{{- range $name, $tenant := $named }}
  {{- $capacity := include "kvtier.bytes" (default $host $tenant.capacity) | int64 -}}
  {{- $arena := get $config.host "arena-bytes" -}}
  {{- if or (not $arena) (eq (toString $arena) "auto") -}}
    {{- $arena = 2097152 -}}
    {{- range list 4 8 16 32 64 128 256 }}{{ if le (mul . 1048576) (div $capacity 16) }}{{ $arena = mul . 1048576 }}{{ end }}{{ end -}}
  {{- else -}}
    {{- $arena = include "kvtier.bytes" $arena | int64 -}}
  {{- end -}}
  {{- $share := get $tenant "nvme-capacity" -}}
  {{- if $share }}{{ $share = include "kvtier.bytes" $share | int64 }}{{ else }}{{ $share = div (sub $disk $own) $sharing }}{{ end -}}
  {{- $tenants = append $tenants (dict "name" $name "capacity" $capacity "arena" $arena "share" $share) -}}
{{- end -}}
{{- $tenants | toJson -}}
{{- end -}}

{{- /* Bytes of all regions: whole arenas, with one page in front. */ -}}
{{- define "kvtier.regionBytes" -}}
{{- $header := 4096 -}}
{{- if eq (default "never" (get .Values.config.host "huge-pages")) "require" }}{{ $header = 2097152 }}{{ end -}}
{{- $bytes := 0 -}}
{{- range include "kvtier.tenants" . | fromJsonArray }}
  {{- $arena := int64 .arena -}}
  {{- $bytes = add $bytes $header (mul (div (int64 .capacity) $arena) $arena) -}}
{{- end -}}
{{- $bytes -}}
{{- end -}}

{{- /* What the container's memory limit has to be. kvtierd compares its cgroup's limit with the first part before it
touches memory (kvstore/src/limits.rs): itself, tenants, devices, a record for each block, rings, regions; and what the remote tier may have under way. The second
part is the kernel's, for regions of 4 KiB pages: two mappings and the registration with io_uring take 8 MiB a GiB. */ -}}
{{- define "kvtier.memoryBytes" -}}
{{- $config := .Values.config -}}
{{- $tenants := include "kvtier.tenants" . | fromJsonArray | len -}}
{{- $devices := len .Values.nvme.volumes -}}
{{- $region := include "kvtier.regionBytes" . | int64 -}}
{{- $disk := include "kvtier.bytes" (default "10GiB" $config.nvme.capacity) | int64 -}}
{{- $ring := include "kvtier.bytes" (default "256MiB" (get $config.limits "ring-bytes")) | int64 -}}
{{- $bytes := add 50331648 (mul 16777216 $tenants) (mul 50331648 $devices $tenants) (mul (div (mul $devices $disk) 524288) 160) -}}
{{- $bytes = add $bytes (mul (div $region 65536) 160) (mul $ring $tenants) -}}
{{- if ne (default "none" $config.remote.kind) "none" }}
  {{- $read := include "kvtier.bytes" (default "256MiB" (get $config.remote "read-bytes")) | int64 -}}
  {{- $write := include "kvtier.bytes" (default "128MiB" (get $config.remote "write-bytes")) | int64 -}}
  {{- $bytes = add $bytes (mul $tenants (add $read $write (mul 200 (default 131072 (get $config.remote "known-blocks") | int64)))) -}}
{{- end -}}
{{- if ne (default "never" (get $config.host "huge-pages")) "require" }}{{ $bytes = add $bytes $region (div $region 128) }}{{ end -}}
{{- add $bytes (include "kvtier.bytes" .Values.resources.memoryExtra | int64) -}}
{{- end -}}

{{- define "kvtier.memory" -}}
{{- default (include "kvtier.mebibytes" (include "kvtier.memoryBytes" .)) .Values.resources.memory -}}
{{- end -}}

{{- /* Keys of one table, a line each. A string in JSON is one in TOML. */ -}}
{{- define "kvtier.table" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kvtier.toml" -}}
{{- $config := .Values.config -}}
socket = "/run/kvtier/kvtier.sock"
{{- include "kvtier.table" (pick $config "pin-share" "shutdown-deadline" "socket-group") }}
{{- range $section := list "host" "nvme" "remote" "events" "tracing" "access" "admin" "metrics" "limits" "log" }}
{{- $table := deepCopy (get $config $section) }}
{{- if eq $section "nvme" }}
  {{- $directories := list }}
  {{- range $.Values.nvme.volumes }}{{ $directories = append $directories (printf "/var/lib/kvtier/nvme/%s" .name) }}{{ end }}
  {{- if $directories }}{{ $_ := set $table "directories" $directories }}{{ end }}
{{- else if eq $section "remote" }}
  {{- if $.Values.remote.volume }}{{ $_ := set $table "directory" "/var/lib/kvtier/remote" }}{{ end }}
  {{- if $.Values.remote.credentialsFile }}{{ $_ := set $table "credentials-file" "/etc/kvtier-credentials/credentials" }}{{ end }}
  {{- if $.Values.remote.caFile }}{{ $_ := set $table "ca-file" "/etc/kvtier-ca/ca.pem" }}{{ end }}
{{- else if eq $section "tracing" }}
  {{- if $.Values.tracing.headersFile }}{{ $_ := set $table "headers-file" "/etc/kvtier-tracing-headers/headers" }}{{ end }}
  {{- if $.Values.tracing.caFile }}{{ $_ := set $table "ca-file" "/etc/kvtier-tracing-ca/ca.pem" }}{{ end }}
{{- else if eq $section "admin" }}
  {{- $_ := set $table "socket" "/run/kvtier-admin/kvtier-admin.sock" }}
  {{- with $.Values.admin.tls }}{{ if .enabled }}
    {{- $_ := set $table "listen" (printf "%s:%d" .address (int .port)) }}
    {{- $_ := set $table "tls-certificate" "/etc/kvtier-admin-tls/tls.crt" }}
    {{- $_ := set $table "tls-key" "/etc/kvtier-admin-tls/tls.key" }}
    {{- $_ := set $table "tls-client-ca" "/etc/kvtier-admin-ca/ca.crt" }}
    {{- if .administrators }}{{ $_ := set $table "tls-administrators" .administrators }}{{ end }}
  {{- end }}{{ end }}
{{- end }}
{{- if $table }}

[{{ $section }}]
{{- include "kvtier.table" $table }}
{{- end }}
{{- end }}
{{- range $name, $tenant := $config.tenants }}

[tenant.{{ $name }}]
{{- include "kvtier.table" $tenant }}
{{- end }}
{{ end -}}
