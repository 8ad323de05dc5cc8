"""Whole fleets, demonstrations and measurements: programs that use crdtlog and peers as users do."""
