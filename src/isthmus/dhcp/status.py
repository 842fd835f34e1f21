"""How a client stands, in words for people."""

import msgspec

SEARCHING, BOUND, RENEWING, REBINDING = "searching", "bound", "renewing", "rebinding"
NO_ANSWER, EXPIRED, CONFLICT, NO_DEVICE = "no answer", "expired", "address in use", "no device"
_REFUSED = "refused"


class Status(msgspec.Struct, frozen=True):
    """A *word* or two, *since* when it is so, and what to do about it, if there is anything."""

    word: str
    since: int
    advice: str = ""


def refused(reason: str) -> str:
    """The word for a refusal with the server's own *reason*."""
    return f"{_REFUSED} ({reason})"


def advice(word: str, mac: str, device: str) -> str:
    """What to do about the *word* for a client; nothing, if all is well or time will tell."""
    if word == NO_ANSWER:
        return (
            f"no DHCP server answers {mac} on {device}: see that one serves this LAN, and that the switch or "
            f"hypervisor behind {device} lets frames from several MACs pass; until one answers, it is asked again"
        )
    if word == NO_DEVICE:
        return f"the device {device} is not there, or is down: bring it up, and the address is asked for again"
    if word == CONFLICT:
        return f"another machine has the address that the DHCP server on {device} gave {mac}: another one is asked for"
    if word.startswith(_REFUSED):
        return f"the DHCP server on {device} refuses {mac}: see its log, and whether it has free addresses"
    return ""
