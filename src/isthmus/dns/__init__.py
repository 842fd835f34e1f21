"""Names for sandboxes: what they ask at 127.0.0.11 is looked up among their networks' names, or asked of others.

`message` and `lookup` decide, `cache` remembers, and none of these does anything; `forward` asks upstream, `server`
holds the sockets inside the sandboxes, and `files` is the text of what programs there read.
"""
