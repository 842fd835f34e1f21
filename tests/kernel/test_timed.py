"""Elements that end by themselves: put, renewed, read and taken back, beside the plans."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from isthmus import firewall
from isthmus.egress import egress_of
from isthmus.errors import IsthmusError
from isthmus.kernel import Scope
from isthmus.kernel.timed import Timed
from isthmus.plan import Make, Plan, Remove
from isthmus.resources import Element
from tests.kernel.realm import apart, run, started

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

TABLE = firewall.table((firewall.EGRESS,))
POLICY = egress_of("deny, allow a.example:443, allow b.example:80-90/tcp")


def named(name: str, address: str, source: str = "10.5.0.9") -> tuple[Element, ...]:
    """What is put when *source* is told *name*."""
    assert POLICY
    subject = firewall.Subject("front0", (ip_address(source),), (POLICY,))
    return tuple(firewall.named(subject, name, ip_address(address)))


@apart
def test_elements_are_put_renewed_and_taken_back(tmp_path: Path) -> None:
    """What is there gets the time that was asked for last; what is not there any more is no matter."""
    with started(tmp_path) as kernel:
        kernel.apply(Plan(tighten=(Make(TABLE),)))
        timed = Timed()
        four, six = named("a.example", "192.0.2.1"), named("b.example", "2001:db8::1", "fd05::9")
        timed.put((*four, *six), 300)
        found = dict(timed.read())
        assert found.keys() == {*four, *six}
        assert all(290 <= left <= 300 for left in found.values())
        timed.put(four, 3000)
        timed.put(six, 30)
        found = dict(timed.read())
        assert all(2990 <= found[one] <= 3000 for one in four)
        assert all(20 <= found[one] <= 30 for one in six)
        assert "10.5.0.9 . tcp . 443 . 192.0.2.1" in run("nft", "list", "set", "inet", "isthmus", "granted4")
        # Plans know nothing of them.
        assert kernel.observe(Scope(firewall=True)) == {TABLE}
        timed.drop(four)
        timed.drop(four)
        assert dict(timed.read()).keys() == {*six}
        timed.close()


@apart
def test_without_a_table_nothing_can_be_put(tmp_path: Path) -> None:
    """It is told by the set's name; there is nothing to be read or taken back then."""
    with started(tmp_path) as kernel:
        timed = Timed()
        with pytest.raises(IsthmusError, match="granted4"):
            timed.put(named("a.example", "192.0.2.1"), 300)
        timed.drop(named("a.example", "192.0.2.1"))
        assert not dict(timed.read())
        kernel.apply(Plan(tighten=(Make(TABLE),)))
        timed.put(named("a.example", "192.0.2.1"), 300)
        kernel.apply(Plan(loosen=(Remove(TABLE),)))
        assert not dict(timed.read())
        timed.close()
