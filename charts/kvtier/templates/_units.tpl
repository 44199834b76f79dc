{{- /* Bytes of a size such as 64GiB or 500MB, as kvtierd reads it. */ -}}
{{- define "kvtier.bytes" -}}
{{- $scale := dict "b" 1 "kb" 1000 "mb" 1000000 "gb" 1000000000 "tb" 1000000000000 "kib" 1024 "mib" 1048576 "gib" 1073741824 "tib" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $unit := regexReplaceAll "^[0-9.]+\\s*" . "" | trim | lower -}}
{{- mulf $number (get $scale $unit) | int64 -}}
{{- end -}}

{{- /* Milliseconds of a duration such as 10s or 500ms. */ -}}
{{- define "kvtier.milliseconds" -}}
{{- $scale := dict "ms" 1 "s" 1000 "min" 60000 "h" 3600000 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $unit := regexReplaceAll "^[0-9.]+\\s*" . "" | trim | lower -}}
{{- mulf $number (get $scale $unit) | int64 -}}
{{- end -}}

{{- /* Bytes of a Kubernetes quantity of memory such as 64Gi. */ -}}
{{- define "kvtier.quantityBytes" -}}
{{- $scale := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $unit := regexReplaceAll "^[0-9.]+" . "" -}}
{{- mulf $number (get $scale $unit) | int64 -}}
{{- end -}}

{{- /* A quantity in whole mebibytes that is not less than so many bytes. */ -}}
{{- define "kvtier.mebibytes" -}}
{{- printf "%dMi" (div (add (int64 .) 1048575) 1048576) -}}
{{- end -}}
