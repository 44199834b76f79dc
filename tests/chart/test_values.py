"""Values that are wrong are refused before anything reaches a cluster, with a text that says what was wanted."""

import pytest

from conftest import template

# A port of the admin API, as it is right.
ADMIN = "admin.tls.enabled=true,admin.tls.server.secretName=a,admin.tls.clientCa.secretName=b,networkPolicy.adminFrom[0].podSelector.matchLabels.a=b"

# What is set, and what the refusal has to say.
BAD = [
    ("config.host.capacity=64", "config/host/capacity"),
    ("config.host.capacity=4MiB", "config.host.capacity: want a size from 8MiB to 3TiB, got \"4MiB\""),
    ("config.host.capacity=4TiB", "config.host.capacity: want a size from 8MiB to 3TiB"),
    ("config.host.capacity=64 apples", "config/host/capacity"),
    ("config.host.arena-bytes=3MiB", "config.host.arena-bytes: want a multiple of 2MiB"),
    ("config.host.arena-bytes=1GiB", "config.host.arena-bytes: want at most half of the capacity of tenant default"),
    ("config.host.huge-pages=sometimes", "value must be one of 'never', 'try', 'require'"),
    ("config.host.huge-pages=try", "a pod has the huge pages that it asks for"),
    ("config.host.huge-pages=require,config.host.prefault=lazy", "config.host.prefault: \"lazy\""),
    ("config.host.watermark-low=0.99", "config.host.watermark-low: want 0 < low < high <= 1, got low 0.99 high 0.98"),
    ("config.host.watermark-high=2", "config/host/watermark-high"),
    ("config.host.colour=red", "'colour' not allowed"),
    ("config.socket=/tmp/x", "'socket' not allowed"),
    ("config.nvme.directories={/x}", "'directories' not allowed"),
    ("config.nvme.depth=0", "config/nvme/depth"),
    ("config.nvme.depth=1025", "config/nvme/depth"),
    ("config.nvme.write-rate=1KiB", "config.nvme.write-rate: want a size from 64KiB to 1TiB"),
    ("config.nvme.promotion-deadline=2min", "config.nvme.promotion-deadline: want a duration from 0s to 1min, got \"2min\""),
    ("config.nvme.promotion-deadline=2", "config/nvme/promotion-deadline"),
    ("config.nvme.io=io-uring", "config.nvme.io: \"io-uring\" is forbidden by the profile"),
    ("config.nvme.capacity=64MiB,nvme.volumes[0].name=a,nvme.volumes[0].hostPath=/mnt/a", "config.nvme.capacity: want room for 4 to 65536 segments"),
    ("config.nvme.segment-bytes=1MiB,nvme.volumes[0].name=a,nvme.volumes[0].hostPath=/mnt/a", "config.nvme.segment-bytes: want a multiple of 4KiB of at least"),
    ("config.events.connect={router:5557}", "config/events/connect/0"),
    ("config.events.connect={tcp://*:5557}", "config.events.connect: want the addresses of routers"),
    ("config.events.replay=tcp://*:5558", "config.events.replay: want events.bind as well"),
    ("config.events.bind={tcp://*:5557}", "networkPolicy.eventsFrom: want the routers"),
    ("config.events.identities={someone}", "config/events/identities/0"),
    ("config.metrics.listen=none", "config/metrics/listen"),
    ("config.limits.sessions=99999", "config/limits/sessions"),
    ("config.limits.handshake-deadline=1ms", "config.limits.handshake-deadline: want a duration from 10ms to 1min"),
    ("config.tenants.Big.capacity=1GiB", "'Big' does not match pattern '^[a-z0-9-]{1,64}$'"),
    ("config.tenants.a.capacity=1MiB", "config.tenants.a.capacity: want a size from 8MiB to 3TiB"),
    ("config.tenants.a.nvme-capacity=20GiB", "config.nvme.capacity: want at least"),
    ("config.log.level=loud", "config/log/level"),
    ("nvme.volumes[0].name=a", "nvme/volumes/0"),
    ("nvme.volumes[0].name=a,nvme.volumes[0].hostPath=mnt", "nvme/volumes/0/hostPath"),
    ("nvme.volumes[0].name=a,nvme.volumes[0].hostPath=/mnt/a,nvme.volumes[1].name=a,nvme.volumes[1].hostPath=/mnt/b", "nvme.volumes: want each name once, got a twice"),
    ("resources.memory=1Gi", "resources.memory: want at least 1355Mi for this configuration, got 1Gi"),
    ("config.remote.kind=ftp", "config/remote/kind"),
    ("config.remote.kind=s3,config.remote.bucket=b", "remote.credentialsSecret: want a Secret"),
    ("config.remote.kind=s3,config.remote.credentials=anonymous", "config.remote.bucket: want the name of a bucket"),
    ("config.remote.kind=s3,config.remote.bucket=b,config.remote.credentials=file", "remote.credentialsFile: want a Secret and its key"),
    ("config.remote.kind=s3,config.remote.bucket=b,config.remote.credentials=identity,remote.credentialsSecret=s", "remote.credentialsSecret: want config.remote.credentials"),
    ("config.remote.endpoint=https://user:secret@host", "config/remote/endpoint"),
    ("config.remote.kind=mount", "remote.volume: want what is mounted"),
    ("config.remote.kind=mount,remote.volume.hostPath=/mnt/s,config.remote.mount-check=required", "config.remote.mount-check: in a pod the directory is always a mount"),
    ("config.remote.kind=mount,remote.volume.hostPath=/mnt/s,config.remote.bucket=b", "config.remote.bucket: want config.remote.kind \"s3\", \"gcs\" or \"azure\""),
    ("config.remote.kind=gcs,config.remote.bucket=b", "config.remote.credentials: want \"file\", \"identity\" or \"anonymous\""),
    ("config.remote.kind=gcs,config.remote.bucket=b,config.remote.credentials=identity,config.remote.region=r", "config.remote.region: want config.remote.kind \"s3\""),
    ("config.remote.kind=gcs,config.remote.bucket=b,config.remote.credentials=identity,config.remote.sign-payload=never", "config.remote.sign-payload: want config.remote.kind \"s3\""),
    ("config.remote.kind=gcs,config.remote.bucket=b,config.remote.credentials=identity,config.remote.account=abc", "config.remote.account: want config.remote.kind \"azure\""),
    ("config.remote.kind=azure,config.remote.bucket=b,config.remote.credentials=identity", "config.remote.account: want the storage account"),
    ("config.remote.kind=azure,config.remote.credentials=identity,config.remote.account=abc", "config.remote.bucket: want the name of a container"),
    ("config.remote.kind=azure,config.remote.account=A.b", "config/remote/account"),
    ("config.remote.kind=mount,remote.volume.hostPath=/mnt/s,remote.volume.claimName=c", "remote/volume"),
    ("remote.volume.hostPath=/mnt/s", "remote.volume: want config.remote.kind \"mount\""),
    ("config.remote.reserve=95%", "config/remote/reserve"),
    ("config.remote.reserve=1KiB", "config.remote.reserve: want a size from 1MiB to 1024TiB"),
    ("config.remote.read-bytes=1KiB", "config.remote.read-bytes: want a size from 1MiB to 64GiB"),
    ("config.remote.sweep-every=1s", "config.remote.sweep-every: want a duration from 10s to 24h"),
    ("config.tracing.exporter=jaeger", "config/tracing/exporter"),
    ("config.tracing.endpoint=collector:4317", "config/tracing/endpoint"),
    ("config.tracing.timeout=2min", "config.tracing.timeout: want a duration from 10ms to 1min, got \"2min\""),
    ("config.tracing.headers-file=/x", "'headers-file' not allowed"),
    ("config.remote.credentials-file=/x", "'credentials-file' not allowed"),
    ("admin.tls.enabled=true,networkPolicy.adminFrom[0].podSelector.matchLabels.a=b", "admin.tls.server.secretName: want a Secret"),
    (f"{ADMIN},admin.tls.clientCa.secretName=", "admin.tls.clientCa.secretName: want a Secret"),
    ("admin.tls.enabled=true,admin.tls.server.secretName=a,admin.tls.clientCa.secretName=b", "networkPolicy.adminFrom: want those who may reach the admin API"),
    (f"{ADMIN},admin.tls.port=9470", "admin.tls.port: want another port than those of metrics and events, got 9470"),
    (f"{ADMIN},admin.tls.port=0", "admin/tls/port"),
    (f"{ADMIN},admin.tls.port=70000", "admin/tls/port"),
    (f"{ADMIN},admin.tls.address=localhost", "admin/tls/address"),
    (f"{ADMIN},admin.tls.administrators={{a,a}}", "admin/tls/administrators"),
    (f"{ADMIN},admin.tls.administrators[0]=", "admin/tls/administrators/0"),
    (f"{ADMIN},admin.tls.server.secretName=Not_A_Name", "admin/tls/server/secretName"),
    (f"{ADMIN},admin.tls.server.certificateKey=a/b", "admin/tls/server/certificateKey"),
    (f"{ADMIN},admin.tls.roles=x", "'roles' not allowed"),
    ("config.admin.listen=0.0.0.0:9471", "'listen' not allowed"),
    ("config.admin.tls-key=/x", "'tls-key' not allowed"),
    ("security.runAsUser=root", "security/runAsUser"),
    ("security.seccomp.type=Localhost,security.seccomp.install=false", "security.seccomp.localhostProfile: want the path"),
    ("serviceMonitor.enabled=true,podMonitor.enabled=true", "podMonitor.enabled: every daemon would be scraped twice"),
    ("image.digest=sha256:1234", "image/digest"),
    ("updateStrategy.maxUnavailable=0", "updateStrategy/maxUnavailable"),
    ("nonsense=1", "'nonsense' not allowed"),
]


@pytest.mark.parametrize(("setting", "says"), BAD, ids=[setting for setting, _ in BAD])
def test_a_bad_value_is_refused_and_named(setting, says):
    # Fractions need JSON: --set takes them for text.
    option = "--set-json" if "watermark" in setting else "--set"
    result = template(None, option, setting, check=False)
    assert result.returncode, "it was taken"
    assert says in result.stderr, result.stderr


def test_what_the_bad_values_of_a_port_differ_from_is_taken():
    template(None, "--set", ADMIN)


def test_all_problems_are_told_at_once():
    settings = ["--set", "config.host.capacity=4MiB,config.nvme.write-rate=1KiB", "--set-json", "config.host.watermark-low=0.99"]
    text = template(None, *settings, check=False).stderr
    for key in ("config.host.capacity", "config.nvme.write-rate", "config.host.watermark-low"):
        assert f"- {key}: want" in text, text
