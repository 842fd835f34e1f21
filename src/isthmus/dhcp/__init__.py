"""DHCP for endpoints that stand on somebody's LAN.

`client` is the machine of both families: times and answers in, questions and facts out. `dialect4` and `dialect6` turn
its questions into frames and frames into answers, by the codecs `frame`, `message`, `message6` and `names`. All these
are pure. `manager` alone has a loop and ports; it runs a client for each endpoint.
"""
