"""A crash anywhere, and damage of any kind, is made good by one round; and no step on the way is unsafe.

That the laws bite is shown by breaking `diff` on purpose: each break is one edit of its source, and must be caught.
Where one is not, the worlds are too narrow.
"""

import inspect
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from isthmus import plan
from isthmus.errors import Refused
from tests.laws.laws import Diff, survives_a_crash
from tests.worlds import World, stories


@settings(max_examples=150, deadline=None, phases=[Phase.reuse, Phase.generate], report_multiple_bugs=False)
@given(stories(), st.data())
def test_a_crash_anywhere_converges_in_one_round(story: tuple[World, World], data: st.DataObject) -> None:
    """There is no undo and no restore: another look must be enough, whatever was done, left undone, or destroyed."""
    survives_a_crash(plan.diff, *story, data)


@dataclass(frozen=True, slots=True)
class Break:
    """One edit of the source of `plan`: *right* becomes *wrong*."""

    name: str
    right: str
    wrong: str

    def __str__(self) -> str:
        return self.name

    def diff(self) -> Diff:
        """The broken `diff`, which makes plans of the same classes as the right one."""
        source = inspect.getsource(plan)
        assert source.count(self.right) == 1, "the source has changed: say this break anew"
        module = vars(plan).copy()
        exec(compile(source.replace(self.right, self.wrong), self.name, "exec"), module)
        broken: Diff = module["diff"]
        module.update({name: vars(plan)[name] for name in ("Make", "Change", "Remove", "Plan", "NOTHING")})
        return broken


_PHASES = "Plan(tuple(tighten), tuple(remove), tuple(make), tuple(loosen))"

BREAKS = (
    Break(
        "make in arbitrary order",
        "make.sort(key=lambda operation: (_rank(operation.resource), _is_indirect(operation.resource)))",
        "make.sort(key=lambda operation: str(operation.resource.key))",
    ),
    Break(
        "no masters first",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Bridge] = _RANK[Veth]",
    ),
    Break(
        "no ports after their masters",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\nfrom isthmus.resources import Port\n_RANK[Port] = _RANK[Bridge]",
    ),
    Break("gateways before the way to them", "_is_indirect(operation.resource)))", "0))"),
    Break("remove in creation order", "-_rank(operation.resource)", "_rank(operation.resource)"),
    Break("make before removing", _PHASES, "Plan(tuple(tighten), (), (*make, *remove), tuple(loosen))"),
    Break("loosen before making", _PHASES, "Plan(tuple(tighten), tuple(remove), (*loosen, *make), ())"),
    Break("tighten after making", _PHASES, "Plan((), tuple(remove), (*make, *tighten), tuple(loosen))"),
    Break("tighten after removing", _PHASES, "Plan((), (*remove, *tighten), tuple(make), tuple(loosen))"),
    Break("take permissions for prohibitions", "taking != permits", "taking == permits"),
    Break("change permissions in place", "return actual.permits and desired != actual", "return False"),
    Break("fill the table before it is there", "tighten.sort(", "sorted(tighten, "),
    Break("lose the guards of what goes when the table is loaded", "if _guards(old)", "if False"),
    Break("let permissions fall with a table that goes last", "resource.permits != (", "None != ("),
    Break("forget what dies with a link", "dead.isdisjoint(_lifelines(resource))", "dead"),
    Break("forget what leans on an address", "or _leans(new, shaken)", ""),
    Break("forget the ports of a bridge that is replaced", "or not dead.isdisjoint(new.needs)", ""),
    Break("forget the sysctls of a link that is replaced", "if link := sysctl_link(name)", "if not (link := name)"),
    Break("change nothing", "operations += _changes(new, was)", "pass"),
    Break("change what cannot be changed", "for field in _FIXED.get(type(desired), ())", "for field in ()"),
    Break("give a link to another owner", 'Bridge: ("owner",)', "Bridge: ()"),
    Break("give an endpoint to another owner", '("owner", "peer_netns", "peer")', '("peer_netns", "peer")'),
    Break("rename an end that stands", '("owner", "peer_netns", "peer")', '("owner", "peer_netns")'),
    Break(
        "no children after their VLANs",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Vlan] = _RANK[Child]",
    ),
    Break(
        "no VLANs after their bridges",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Vlan] = _RANK[Bridge]",
    ),
    Break(
        "no children before their sysctls",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Child] = _RANK[Sysctl]",
    ),
    Break("let children outlive their parents", "case Veth() | Vxlan():", "case Veth() | Vxlan() | Child():"),
    Break("let VLANs outlive their parents", "case Veth() | Vxlan():", "case Veth() | Vxlan() | Vlan():"),
    Break("keep a VLAN on another parent", '("owner", "parent", "vid")', '("owner", "vid")'),
    Break("keep a VLAN of another number", '("owner", "parent", "vid")', '("owner", "parent")'),
    Break("give a VLAN to another owner", '("owner", "parent", "vid")', '("parent", "vid")'),
    Break("keep a child on another parent", '"parent", "kind", "mode", "flag")', '"kind", "mode", "flag")'),
    Break("keep a child in another mode", '"parent", "kind", "mode", "flag")', '"parent", "kind", "flag")'),
    Break("keep a child with another flag", '"parent", "kind", "mode", "flag")', '"parent", "kind", "mode")'),
    Break("give a child to another owner", 'Child: ("owner", ', "Child: ("),
    Break("give a link for shaping to another owner", 'Ifb: ("owner",)', "Ifb: ()"),
    Break(
        "let a redirection fall with its target",
        "return link_key(resource.netns, resource.link) in dead",
        "return not dead.isdisjoint(resource.needs)",
    ),
    Break(
        "no shapers after their links",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Shaper] = _RANK[Bridge]",
    ),
    Break(
        "no redirections after their targets",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Redirect] = _RANK[Veth]",
    ),
    Break("let a tunnel fall with its bridge", "case Veth() | Vxlan():", "case Veth():"),
    Break("give a tunnel to another owner", 'Vxlan: ("owner", ', "Vxlan: ("),
    Break("keep a tunnel of another number", 'Vxlan: ("owner", "vni", ', 'Vxlan: ("owner", '),
    Break("keep a tunnel on another port", '"vni", "port", ', '"vni", '),
    Break("keep a tunnel from another address", '"port", "local", ', '"port", '),
    Break("keep a tunnel that learns", '"local", "learning", ', '"local", '),
    Break(
        "no tunnels after their bridges",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Vxlan] = _RANK[Bridge]",
    ),
    Break(
        "tell a port before it is one",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Forwarding] = _RANK[Veth]",
    ),
    Break(
        "tell a tunnel of neighbours before it is there",
        "for rank, kind in enumerate(ORDER)}",
        "for rank, kind in enumerate(ORDER)}\n_RANK[Neighbour] = _RANK[Vxlan]",
    ),
    Break("keep an old table", 'Table: ("digest",)', "Table: ()"),
    Break("load the table anew for what is optional in it", 'Table: ("digest",)', 'Table: ("digest", "needed")'),
    Break("lose what is needed no more before it is", "(loosen if _is_smaller(operation)", "(loosen if taking"),
    Break(
        "get what is needed after it is",
        "(loosen if _is_smaller(operation) else tighten)",
        "(tighten if isinstance(operation, Make) else loosen)",
    ),
    Break("get and lose at once", "tuple(sorted({*new.needed, *was.needed}))", "new.needed"),
    Break("make only what is missing", "was is None or key in dead", "was is None"),
)


@pytest.mark.parametrize("broken", BREAKS, ids=str)
def test_a_broken_diff_is_caught(broken: Break) -> None:
    """A law that no mistake can break says nothing."""
    diff = broken.diff()

    @settings(
        max_examples=3000,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(stories(), st.data())
    def law(story: tuple[World, World], data: st.DataObject) -> None:
        survives_a_crash(diff, *story, data)

    with pytest.raises((AssertionError, Refused, ExceptionGroup)):
        law()
