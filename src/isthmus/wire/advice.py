"""What a check of a parent found, and what a user can do about it.

A macvlan child has a MAC of its own. Switches of hypervisors and clouds know which MACs they gave out: they drop frames
from others, or never deliver what is sent to them. Each has its own name for the setting that allows more; here they
are, with the one of the platform at hand first.
"""

from collections.abc import Iterator
from enum import Enum

import msgspec

from isthmus.model import IPAddress


class Verdict(Enum):
    """Who was answered: a second MAC on the parent, only the parent's own, or neither."""

    BOTH = "both"
    PARENT_ONLY = "parent only"
    NOBODY = "nobody"


class Finding(msgspec.Struct, frozen=True):
    """What came of asking on a parent: the *verdict*, who answered first (*neighbour*, at *mac*), and when.

    *Took* is in seconds since the question, up to the answer to the second MAC, else to the parent's. If nobody
    answered, *neighbour* is None.
    """

    verdict: Verdict
    neighbour: IPAddress | None = None
    mac: str = ""
    took: float = 0.0


class Platform(Enum):
    """Whose switch the parent may be on."""

    VMWARE = "VMware"
    VIRTUALBOX = "VirtualBox"
    HYPER_V = "Hyper-V"
    AZURE = "Azure"
    LIBVIRT = "libvirt"
    OPENSTACK = "OpenStack"
    AWS = "AWS"
    GOOGLE = "Google Cloud"


_SETTINGS = {
    Platform.VMWARE: "on VMware, set promiscuous mode, MAC address changes and forged transmits to Accept in the "
    "security policy of the virtual machine's port group",
    Platform.VIRTUALBOX: "on VirtualBox, set the virtual machine's adapter to Bridged, with promiscuous mode Allow All "
    "(VBoxManage modifyvm NAME --nicpromisc1 allow-all)",
    Platform.HYPER_V: "on Hyper-V, turn MAC address spoofing on in the advanced features of the network adapter "
    "(Set-VMNetworkAdapter -VMName NAME -MacAddressSpoofing On)",
    Platform.AZURE: "on Azure, a virtual machine can use no MAC but its own: use ipvlan (l3) or a routed bridge",
    Platform.LIBVIRT: "on libvirt (KVM), set trustGuestRxFilters='yes' on a macvtap interface of model virtio, and "
    "take filters against foreign MACs (clean-traffic, no-mac-spoofing) off the interface",
    Platform.OPENSTACK: "on OpenStack, add the addresses and MACs to the port's allowed address pairs, or turn its "
    "port security off; otherwise use ipvlan (l3) or a routed bridge",
    Platform.AWS: "on AWS, an instance can use no MAC but its interface's own: use ipvlan (l3) or a routed bridge",
    Platform.GOOGLE: "on Google Cloud, an instance can use no MAC but its interface's own: use ipvlan (l3) with "
    "an alias IP range, or a routed bridge",
}

# In this order: Azure is Hyper-V, and clouds of OpenStack and AWS run on KVM. Azure's own tag of a chassis is not in
# the names, so both are told.
_NAMES = (
    ("vmware", (Platform.VMWARE,)),
    ("virtualbox", (Platform.VIRTUALBOX,)),
    ("innotek", (Platform.VIRTUALBOX,)),
    ("microsoft corporation virtual machine", (Platform.HYPER_V, Platform.AZURE)),
    ("openstack", (Platform.OPENSTACK,)),
    ("amazon ec2", (Platform.AWS,)),
    ("google", (Platform.GOOGLE,)),
    ("qemu", (Platform.LIBVIRT, Platform.OPENSTACK)),
    ("kvm", (Platform.LIBVIRT, Platform.OPENSTACK)),
    ("red hat", (Platform.LIBVIRT, Platform.OPENSTACK)),
)

WIRELESS = (
    "{parent} is a Wi-Fi interface, and an 802.11 station can send with its own MAC only: use ipvlan, or a bridge "
    "network with NAT"
)


def platforms(vendor: str, product: str) -> tuple[Platform, ...]:
    """Whose switch a machine is probably on, most likely first, from the `sys_vendor` and `product_name` of its DMI.

    >>> platforms("VMware, Inc.", "VMware Virtual Platform")
    (<Platform.VMWARE: 'VMware'>,)
    >>> platforms("Dell Inc.", "PowerEdge R650")
    ()
    """
    text = f"{vendor.strip()} {product.strip()}".lower()
    return next((found for name, found in _NAMES if name in text), ())


def advice(finding: Finding, parent: str, vendor: str = "", product: str = "", *, wireless: bool) -> tuple[str, ...]:
    """What *finding* means for a macvlan on *parent*, as sentences: first what is so, then what can be done.

    There are none if all is well. *Vendor* and *product* are what `/sys/class/dmi/id` says, read by the caller;
    *wireless* tells a Wi-Fi parent.
    """
    if finding.verdict is Verdict.BOTH:
        return ()
    return tuple(_advice(finding, parent, platforms(vendor, product), wireless=wireless))


def _advice(finding: Finding, parent: str, likely: tuple[Platform, ...], *, wireless: bool) -> Iterator[str]:
    if finding.verdict is Verdict.NOBODY:
        yield (
            f"nobody answered on {parent}, neither to its own MAC nor to a second one, so whether macvlan works there "
            "cannot be told: see to its cable and VLAN, and that the gateway is the right one"
        )
    else:
        yield (
            f"{finding.neighbour} answers to the MAC of {parent} but not to a second one: the switch behind {parent} "
            "lets no further MAC pass, so containers with one of their own will reach nobody there"
        )
    if wireless:
        yield WIRELESS.format(parent=parent)
        return
    if finding.verdict is Verdict.PARENT_ONLY:
        others = (one for one in Platform if one not in likely)
        yield from (_SETTINGS[one] for one in (*likely, *others))
        yield "on a switch with port security, allow more MACs on the port; or use ipvlan, which needs none of its own"
