"""What hosts tell each other of the networks that they share, by a store that all of them can reach.

Below the store's prefix, with values as `store.records` writes them where a record is named:

    cluster                        an ID that tells this store from one that lost its data and began anew
    nodes/<node>                   who is there: it goes when the host does not renew its session
    networks/<network>             the record of a network; names/<name> and vnis/<number> are its alone
    open/<network>                 is there as long as anybody may come to it
    addresses/<network>/<address>  who has an address (a `Peer`): made only if nobody has it, so the keys are the pool
    blocks/<network>/<prefix>      whose a part of a pool is, in networks where hosts have such parts for themselves

What this host has there follows from what stands (`Engine.offers`), so nothing is lost or leaked whoever dies: what is
lacking is told again, what nobody has here any more is taken back. What others have, the engine learns, and keeps: when
the store is away, nothing changes for those who stand. A host's addresses are free a while after its session ended;
one that was cut off for longer claims its own again. A store that lost its data is filled again by all who know it, and
what they knew is not forgotten until each had the time to do so.
"""
