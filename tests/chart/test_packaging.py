"""What packages are made of: image, systemd unit, archives, references."""

import ast
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from conftest import CHART, TOP, daemon, objects, run, template

PACKAGING = TOP / "packaging"


def test_hadolint_finds_nothing():
    run("hadolint", TOP / "Dockerfile")


def test_the_image_is_what_the_chart_expects():
    dockerfile = (TOP / "Dockerfile").read_text()
    container = daemon(objects(template().stdout))
    context = container["securityContext"]
    assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile
    # The chart calls programs by their names, and its init containers need a shell and install(1).
    assert "/out/usr/bin/kvtierd /out/usr/bin/kvtier /usr/bin/" in dockerfile and container["command"][0] == "kvtierd"
    assert "\nARG BASE=debian:" in dockerfile
    # debian:bookworm-slim has no certificates, and remote.kind = "s3" needs some.
    assert "\nCOPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt\n" in dockerfile
    toolchain = re.search(r'channel = "(\d+\.\d+)', (TOP / "rust-toolchain.toml").read_text())[1]
    assert f"\nARG BUILD_BASE=rust:{toolchain}-bookworm\n" in dockerfile


def test_the_build_of_the_image_has_all_that_it_is_made_of():
    left_out = [line for line in (TOP / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    crates = re.search(r"^members = \[(.*?)\]", (TOP / "Cargo.toml").read_text(), re.MULTILINE | re.DOTALL)[1]
    wanted = ["Cargo.lock", "Cargo.toml", "LICENSE", "rust-toolchain.toml", ".cargo/config.toml", "scripts/setup.sh", "scripts/build.sh", "scripts/common.sh"]
    for crate in re.findall(r'"(.+?)"', crates):
        wanted += [str(path.relative_to(TOP)) for path in [TOP / crate / "Cargo.toml", *(TOP / crate / "src").rglob("*.rs")]]
    assert len(wanted) > 100
    for path in map(pathlib.PurePath, wanted):
        for pattern in left_out:
            assert not any(fnmatch.fnmatch(str(place), pattern) for place in (path, *path.parents)), f"{path} by {pattern}"


def unit(prefix):
    return (PACKAGING / "kvtierd.service.in").read_text().replace("@PREFIX@", str(prefix))


@pytest.fixture
def unit_file(tmp_path, kvtierd):
    """The unit, with the daemon where it looks for it, and a user that there is."""
    (tmp_path / "bin").mkdir()
    shutil.copy(kvtierd, tmp_path / "bin" / "kvtierd")
    text = unit(tmp_path).replace("User=kvtier", "User=root").replace("Group=kvtier", "Group=root")
    path = tmp_path / "kvtierd.service"
    path.write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    return path


def needs_systemd_analyze():
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")


def test_the_unit_is_well_formed(unit_file):
    needs_systemd_analyze()
    result = run("systemd-analyze", "verify", unit_file, check=False)
    about_it = [line for line in result.stderr.splitlines() if "kvtierd" in line]
    assert not about_it, about_it


def test_the_unit_exposes_little(unit_file):
    needs_systemd_analyze()
    result = run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit_file, check=False)
    exposure = re.search(r"Overall exposure level for .*: (\d+\.\d+)", result.stdout)
    assert exposure, result.stdout + result.stderr
    assert float(exposure[1]) <= 2.0, result.stdout


def test_the_unit_leaves_the_daemon_as_long_as_it_may_take(kvtier):
    default = run(kvtier, "check-config", "--print-default").stdout
    deadline = int(re.search(r'^shutdown-deadline = "(\d+)s"', default, re.MULTILINE)[1])
    assert int(re.search(r"^TimeoutStopSec=(\d+)", unit("/usr"), re.MULTILINE)[1]) >= deadline + 10


def test_the_sample_configuration_is_sound_also_with_all_that_it_suggests(kvtier, tmp_path):
    text = (PACKAGING / "kvtierd.toml").read_text()
    run(kvtier, "check-config", PACKAGING / "kvtierd.toml")
    suggested = re.sub(r"^# ?(\[|[a-z-]+ = )", r"\1", text, flags=re.MULTILINE)
    assert suggested.count("\n[") == 7
    (tmp_path / "kvtierd.toml").write_text(suggested)
    run(kvtier, "check-config", tmp_path / "kvtierd.toml")


@pytest.fixture(scope="session")
def installed(tmp_path_factory, kvtierd):
    """What install.sh puts where, made of the binaries of the tests."""
    top = tmp_path_factory.mktemp("install")
    (top / "target").mkdir()
    (top / "target" / "release").symlink_to(os.path.dirname(kvtierd))
    run(TOP / "scripts" / "install.sh", top / "root", "/usr", env={**os.environ, "CARGO_TARGET_DIR": str(top / "target")})
    return top / "root" / "usr"


def test_an_installation_is_complete(installed, kvtier):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if not path.is_dir()}
    assert {"bin/kvtierd", "bin/kvtier", "bin/kvtier-bench", "include/kvtier.h", "lib/libkvtier.so", "lib/libkvtier.so.1", "lib/libkvtier.a"} <= files
    assert {"lib/systemd/system/kvtierd.service", "lib/sysusers.d/kvtier.conf", "share/doc/kvtier/LICENSE", "share/man/man1/kvtierd.1"} <= files
    assert {"share/bash-completion/completions/kvtier", "share/zsh/site-functions/_kvtier", "share/fish/vendor_completions.d/kvtier.fish"} <= files
    subcommands = re.findall(r"^  ([a-z-]+) ", run(kvtier, "--help").stdout.split("Commands:")[1].split("Options:")[0], re.MULTILINE)
    assert len(subcommands) > 10
    for name in set(subcommands) - {"help"}:
        assert f"share/man/man1/kvtier-{name}.1" in files, name
    assert "ExecStart=/usr/bin/kvtierd " in (installed / "lib/systemd/system/kvtierd.service").read_text()


def test_links_of_installed_guides_lead_somewhere(installed):
    """README.md used to be installed alone, with links to everything that was not."""
    folder = installed / "share/doc/kvtier"
    pages = sorted(folder.rglob("*.md"))
    assert {"README.md", "CHANGELOG.md", "docs/quickstart.md"} <= {str(page.relative_to(folder)) for page in pages}
    links = 0
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(folder)}: {target}"
                links += 1
    assert links > 30
    assert "`bench/README.md` of the sources" in (folder / "README.md").read_text()


def test_a_program_is_built_against_an_installation(installed, tmp_path):
    if not shutil.which("pkg-config") or not shutil.which("cc"):
        pytest.skip("no pkg-config or no C compiler here")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(installed / "lib/pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(installed.parent)}
    flags = run("pkg-config", "--cflags", "--libs", "kvtier", env=environment).stdout.split()
    (tmp_path / "version.c").write_text(
        '#include <kvtier.h>\n#include <stdio.h>\nint main(void) { puts(kvt_library_version()); return kvt_abi_version() != KVT_ABI_VERSION; }\n'
    )
    run("cc", tmp_path / "version.c", "-o", tmp_path / "version", *flags)
    printed = run(tmp_path / "version", env={**os.environ, "LD_LIBRARY_PATH": str(installed / "lib")}).stdout.strip()
    assert f'version = "{printed}"' in (TOP / "Cargo.toml").read_text()


def test_the_bill_of_materials_is_complete_and_names_no_machine():
    # pytest's own interpreter, which is any.
    bill = json.loads(run(sys.executable, TOP / "scripts" / "sbom.py", cwd=TOP).stdout)
    refs = {component["bom-ref"] for component in bill["components"]}
    names = {component["name"] for component in bill["components"]}
    assert {"kvstore", "connector-abi", "rocksdb", "librocksdb-sys", "tokio", "tonic"} <= names and len(refs) == len(bill["components"])
    assert "proptest" not in names, "what only tests need is not shipped"
    for dependency in bill["dependencies"]:
        assert set(dependency["dependsOn"]) <= refs
    for component in bill["components"]:
        assert component["licenses"], component["name"]
        assert "hashes" in component or component["name"].startswith(("kv", "connector-"))
    assert str(TOP) not in json.dumps(bill)


def test_references_are_what_the_sources_say(tmp_path):
    run(sys.executable, TOP / "scripts" / "reference.py", tmp_path)
    for name in ("c-api.md", "python-api.md"):
        if os.environ.get("KVTIER_BLESS"):
            shutil.copy(tmp_path / name, TOP / "docs" / name)
        assert (tmp_path / name).read_text() == (TOP / "docs" / name).read_text(), "write it anew: scripts/reference.py"


def test_references_leave_nothing_out():
    header = (TOP / "connector-abi" / "include" / "kvtier.h").read_text()
    functions = set(re.findall(r"^[a-z].*?\b\*?(kvt_\w+)\(", header, re.MULTILINE))
    page = (TOP / "docs" / "c-api.md").read_text()
    assert len(functions) > 25
    assert not [name for name in functions if f"### {name}\n" not in page]
    init = ast.parse((TOP / "python-shim/kvtier/client/__init__.py").read_text())
    public = next(ast.literal_eval(node.value) for node in init.body if isinstance(node, ast.Assign))
    page = (TOP / "docs" / "python-api.md").read_text()
    documented = set(re.findall(r"^### (\w+)", page, re.MULTILINE))
    assert set(public) - {"abi", "Status"} <= documented | {"Status"}


def test_links_to_sections_lead_somewhere():
    """The tidy test checks files; this, the sections in them."""
    def anchors(path):
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for page in sorted((TOP / "docs").glob("*.md")) + [TOP / "README.md"]:
        for file, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", page.read_text()):
            target = (page.parent / file).resolve() if file else page
            assert anchor in anchors(target), f"{page.name}: {file}#{anchor}"


def test_settings_that_guides_name_exist():
    known = set(re.findall(r"`([a-z]+\.[a-z-]+)`<br>", (TOP / "docs" / "configuration.md").read_text()))
    tables = {key.split(".")[0] for key in known}
    for page in ("sizing", "tuning", "failures", "security", "quickstart"):
        for name in re.findall(r"`(?:set |kvtier set |config\.)?([a-z]+\.[a-z-]+)(?:`| ?=)", (TOP / "docs" / f"{page}.md").read_text()):
            # Tables of the chart have names of the daemon's.
            if name.split(".")[0] in tables and name not in ("nvme.volumes", "admin.tls"):
                assert name in known, f"{page}.md: {name}"


def test_metrics_that_guides_name_exist():
    documented = (TOP / "docs" / "metrics.md").read_text()
    for page in ("sizing", "tuning", "failures"):
        for name in re.findall(r"(?<![:\w])kvtier_[a-z_]+", (TOP / "docs" / f"{page}.md").read_text()):
            assert f"`{name}`" in documented, f"{page}.md: {name}"


@pytest.fixture(scope="session")
def chart_values():
    return json.loads((CHART / "values.schema.json").read_text())


def test_values_that_guides_name_exist(chart_values):
    for page in ("quickstart", "security", "failures", "tuning"):
        for name in re.findall(r"`((?:security|networkPolicy|resources|updateStrategy|image|nvme\.volumes)[\w.]*)[`:]", (TOP / "docs" / f"{page}.md").read_text()):
            place = chart_values
            for part in name.split("."):
                place = place["properties"].get(part)
                assert place, f"{page}.md: {name}"


def test_the_version_is_one():
    version = re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.MULTILINE)[1]
    chart = (CHART / "Chart.yaml").read_text()
    assert f'appVersion: "{version}"' in chart
    assert f"kvtier:{version}" in (TOP / "Dockerfile").read_text()
    assert f"kvtier_{version}_amd64" in (TOP / "docs/quickstart.md").read_text()


def test_scripts_of_the_package_are_sound():
    for path in (PACKAGING / "debian").iterdir():
        if path.suffix == "":
            subprocess.run(["sh", "-n", path], check=True)
            if shutil.which("shellcheck"):
                run("shellcheck", path)
