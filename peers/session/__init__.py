"""The sync session between two devices, without I/O: the machine, its messages, flow control. Bytes in, effects out."""
