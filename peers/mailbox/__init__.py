"""A database's mailboxes at a relay, without input or output: keys, blobs, and what to read and upload when.

Knows entries as bytes with a dot, a hash and a context. Must not know sockets, clocks or the file: blobs, heads and the
time come in; entries to apply and blobs to append go out. `peers.node.relaying` performs them.
"""
