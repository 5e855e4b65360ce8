"""Debian's packages are upgraded and rigs rebooted while the fleet serves, and nothing is lost."""

import shlex
from collections.abc import Iterator

import pytest

from tests.fleet.harness import Fleet, wait_for
from tests.hammer import Conversations

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("disturbs")]

PLAYBOOK = "playbooks/update_debian.yml"
PACKAGE = "heartcode-test"
#: A package, and a repository that has a newer version of it and is the only one: what Debian has
#: upgraded in the meantime is not this test's business, and tomorrow it would be something else.
REPOSITORY = r"""
set -e
mkdir -p /srv/upgrades /etc/apt/away
for version in 1 2; do
    tree=$(mktemp -d)
    mkdir $tree/DEBIAN
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: all\n' "$1" $version
        printf 'Maintainer: nobody\nDescription: a test\n'
    } >$tree/DEBIAN/control
    if [ $version = 2 ]; then
        printf '#!/bin/sh\n%s\n' "$2" >$tree/DEBIAN/postinst
        chmod 755 $tree/DEBIAN/postinst
    fi
    chmod 755 $tree
    dpkg-deb --build --root-owner-group $tree /srv/upgrades/$version.deb >/dev/null
    rm -r $tree
done
dpkg --install /srv/upgrades/1.deb >/dev/null
size=$(stat --format=%s /srv/upgrades/2.deb)
sum=$(sha256sum /srv/upgrades/2.deb | cut -d' ' -f1)
{
    dpkg-deb --field /srv/upgrades/2.deb
    printf 'Filename: ./2.deb\nSize: %s\nSHA256: %s\n' $size $sum
} >/srv/upgrades/Packages
find /etc/apt/sources.list /etc/apt/sources.list.d -type f -exec mv {} /etc/apt/away/ ';'
echo 'deb [trusted=yes] file:/srv/upgrades ./' >/etc/apt/sources.list.d/upgrades.list
"""
UNDO = f"""
rm -f /etc/apt/sources.list.d/upgrades.list /run/heartcode-upgraded
dpkg --purge --force-all {PACKAGE} >/dev/null 2>&1
[ ! -e /etc/apt/away/sources.list ] || mv /etc/apt/away/sources.list /etc/apt/
find /etc/apt/away -type f -exec mv {{}} /etc/apt/sources.list.d/ ';'
rm -rf /etc/apt/away /srv/upgrades
apt-get update -qq
"""


def offer_an_upgrade(fleet: Fleet, host: str, postinst: str = "true") -> None:
    fleet.ssh(host, f"set -- {PACKAGE} {shlex.quote(postinst)}\n{REPOSITORY}")


def version(fleet: Fleet, host: str) -> str:
    return fleet.ssh(host, f"dpkg-query --show --showformat='${{Version}}' {PACKAGE}")


def boots(fleet: Fleet) -> dict[str, str]:
    boot = "cat /proc/sys/kernel/random/boot_id"
    return {host: fleet.ssh(host, boot) for host in fleet.addresses}


@pytest.fixture
def undone(fleet: Fleet) -> Iterator[None]:
    yield
    for host in fleet.addresses:
        fleet.ssh(host, UNDO)


def upgrade(fleet: Fleet, *arguments: str) -> tuple[int, str]:
    done = fleet.playbook(*arguments, playbook=PLAYBOOK)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.usefixtures("undone")
def test_rigs_are_upgraded_and_rebooted_one_after_the_other_and_nothing_is_lost(
    fleet: Fleet,
) -> None:
    for host in fleet.addresses:
        offer_an_upgrade(fleet, host)
    before = boots(fleet)

    status, told = upgrade(fleet, "--check")
    assert status == 0, told
    assert f"rig1: 1 packages to upgrade ({PACKAGE}), then a reboot" in told
    assert {version(fleet, host) for host in fleet.addresses} == {"1"}
    assert boots(fleet) == before

    with Conversations(fleet) as load:
        status, told = upgrade(fleet)
        assert status == 0, told
        assert load.failures == []
    assert {version(fleet, host) for host in fleet.addresses} == {"2"}
    after = boots(fleet)
    assert {host for host in after if after[host] != before[host]} == set(fleet.rigs)
    assert "gateway goes on with what it has loaded until it is rebooted" in told

    # The gateway's reboot is due still, and nobody has allowed it.
    status, told = upgrade(fleet)
    assert status == 0, told
    assert told.count("changed=0") == len(fleet.addresses), told
    assert boots(fleet) == after


@pytest.mark.usefixtures("undone")
def test_a_package_that_fails_stops_it_and_the_rig_serves_on(fleet: Fleet) -> None:
    for rig in fleet.rigs:
        offer_an_upgrade(fleet, rig, postinst="echo no such luck >&2; exit 1")
    before = boots(fleet)
    with Conversations(fleet) as load:
        status, told = upgrade(fleet)
        assert load.failures == []
    assert status != 0
    assert 'rig1: "Upgrade the packages" failed' in told
    assert "no such luck" in told
    assert version(fleet, "rig2") == "1", "the one after it was left alone"
    assert boots(fleet) == before
    wait_for(
        lambda: not fleet.ssh("rig1", "ls /run/heartcode/draining", check=False),
        "rig1 takes requests again",
    )


@pytest.mark.ci
@pytest.mark.usefixtures("undone")
def test_a_rig_that_nobody_stands_in_for_is_left_alone(fleet: Fleet) -> None:
    offer_an_upgrade(fleet, "rig1")
    before = boots(fleet)
    fleet.ssh("rig2", "touch /run/heartcode/draining")
    try:
        status, told = upgrade(fleet, "--limit", "rig1:rig2")
    finally:
        fleet.ssh("rig2", "rm /run/heartcode/draining")
    assert status != 0
    assert "no other rig is ready that serves all that rig1 serves" in told
    assert version(fleet, "rig1") == "1"
    assert boots(fleet) == before
