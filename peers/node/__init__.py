"""What runs: files, connections, discovery and pairing of one home; asyncio drivers of the machines without I/O."""
