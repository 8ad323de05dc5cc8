"""The relay: a server that keeps sealed blobs in mailboxes for devices that are never online together.

Knows mailboxes, blobs, quotas and connections. Must not know databases, devices, members or what a blob contains: it
imports nothing of them. The one idea: a mailbox is a public key; whoever can sign with its private half may append to
it and read it, and nobody else learns anything but sizes and times.
"""
