"""Pairing by a short code, without I/O: codes, the two machines, their frames and effects. Bytes in, effects out."""
