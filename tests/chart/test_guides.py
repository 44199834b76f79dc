"""Every command of the guides, carried out."""

import re
import subprocess

import pytest

from conftest import TOP, configuration, objects, template
from pods import Daemon

GUIDES = ["failures", "tuning", "sizing", "quickstart", "security", "compatibility"]
# What is no command but a word of text, and commands that want more than their name, or a remote tier.
NOT_ALONE = {"kvtier evict", "kvtier set", "kvtier lookup", "kvtier events", "kvtier remote gc"}


def commands():
    """Commands of code blocks and of code in sentences."""
    found = set()
    for page in GUIDES:
        text = (TOP / "docs" / f"{page}.md").read_text()
        blocks = text.split("```")
        for line in re.findall(r"(?m)^(?:sudo )?(kvtier [^#\n]*)", "\n".join(blocks[1::2])):
            found.add(" ".join(line.split()))
        for words in re.findall(r"`(?:sudo )?(kvtier [a-z][^`]*)`", "".join(blocks[::2])):
            found.add(" ".join(words.split()))
    return {command for command in found - NOT_ALONE if not command.startswith("kvtier is ")}


@pytest.fixture
def filled(folder):
    """Stands for what is written in capitals or is a path of somebody's machine."""
    names = {"/etc/kvtier/kvtierd.toml": folder / "kvtierd.toml", "FILE": folder / "kvtierd.toml", "DIGITS": "", "KEY=VALUE": "log.level=info"}
    names |= {"/mnt/nvme0/kvtier": folder / "nvme" / "a", "DIR": folder / "nvme" / "a"}
    return lambda command: [str(names.get(word, word)) for word in command.split()[1:] if names.get(word, word) != ""]


def test_every_command_of_the_guides_works(kvtierd, kvtier, folder, filled, monkeypatch):
    settings = "nvme.volumes[0].name=a,nvme.volumes[0].hostPath=/mnt/a,config.nvme.capacity=256MiB,config.host.arena-bytes=16MiB"
    text = configuration(objects(template(None, "--set", settings).stdout))
    found = commands()
    assert len(found) > 12

    def works(command):
        result = subprocess.run([kvtier, *filled(command)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}: exit {result.returncode}\n{result.stdout}{result.stderr}"

    with Daemon(kvtierd, folder, text) as running:
        running.ready()
        monkeypatch.setenv("KVTIER_CLI_SOCKET", str(running.sockets / "kvtier-admin.sock"))
        # A drain is not to be undone, so it comes last.
        for command in sorted(found, key=lambda command: command == "kvtier drain"):
            if "fsck" not in command:
                works(command)
        assert running.end() == 0
    for command in sorted(found):
        if "fsck" in command:
            works(command)
