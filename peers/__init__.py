"""peers: everything that touches another machine or the person: identity, pairing, sync, daemon, command line."""
