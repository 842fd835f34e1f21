"""What is said about a parent that passes no second MAC."""

from ipaddress import IPv4Address

import pytest

from isthmus.wire.advice import Finding, Verdict, advice

GATEWAY = IPv4Address("10.0.36.254")
PARENT_ONLY = Finding(Verdict.PARENT_ONLY, GATEWAY, "02:00:00:00:00:01", 0.001)


@pytest.mark.parametrize(
    ("vendor", "product", "words"),
    [
        ("VMware, Inc.", "VMware20,1", ("promiscuous", "forged transmits", "MAC address changes")),
        ("innotek GmbH", "VirtualBox", ("VirtualBox", "Allow All")),
        ("Microsoft Corporation", "Virtual Machine\n", ("Hyper-V", "MAC address spoofing")),
        ("QEMU", "Standard PC (Q35 + ICH9, 2009)", ("libvirt", "trustGuestRxFilters")),
        ("OpenStack Foundation", "OpenStack Nova", ("allowed address pairs", "port security")),
        ("Amazon EC2", "m7i.large", ("AWS", "ipvlan")),
        ("Google", "Google Compute Engine", ("Google Cloud", "ipvlan")),
    ],
)
def test_the_setting_of_the_platform_at_hand_comes_first(vendor: str, product: str, words: tuple[str, ...]) -> None:
    """A user on VMware should not have to read about Azure before he finds his own."""
    said = advice(PARENT_ONLY, "ens34", vendor, product, wireless=False)
    assert all(word in said[1] for word in words)
    assert "10.0.36.254 answers to the MAC of ens34 but not to a second one" in said[0]
    assert len(set(said)) == len(said)


def test_where_the_platform_is_not_known_each_is_named() -> None:
    """The machine may be a container host that hides what it runs on."""
    said = " ".join(advice(PARENT_ONLY, "ens34", wireless=False))
    for name in (
        "VMware",
        "VirtualBox",
        "Hyper-V",
        "libvirt",
        "AWS",
        "Google Cloud",
        "Azure",
        "OpenStack",
        "switch with port",
    ):
        assert name in said


def test_azure_is_named_beside_hyper_v() -> None:
    """Both call themselves the same; only one can be set."""
    assert "Azure" in advice(PARENT_ONLY, "eth0", "Microsoft Corporation", "Virtual Machine", wireless=False)[2]


def test_on_wifi_no_switch_is_to_blame() -> None:
    """No setting helps there."""
    said = advice(PARENT_ONLY, "wlan0", "QEMU", "Standard PC", wireless=True)
    assert len(said) == 2
    assert "802.11" in said[1]


def test_where_nobody_answers_no_switch_is_blamed() -> None:
    """It would send the user to look in the wrong place."""
    (said,) = advice(Finding(Verdict.NOBODY), "ens34", "VMware, Inc.", "VMware", wireless=False)
    assert said.startswith("nobody answered on ens34")


def test_all_is_well_in_silence() -> None:
    """Whatever machine it is."""
    assert advice(Finding(Verdict.BOTH, GATEWAY), "ens34", "VMware, Inc.", "VMware", wireless=False) == ()
