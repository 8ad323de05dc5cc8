"""Everything that reads bytes which somebody else may have written, by name.

A new reader gets a function beside its like that makes its `Subject`, and a line in that file's list.
"""

from tests.fuzz.targets import abridged, applying, faulty, kinds, log, machines, mailbox, relay, schemas, wire
from tests.fuzz.trial import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (log, abridged, schemas, kinds, wire, machines, relay, mailbox, applying)
    for target in module.TARGETS
}
FAULTY: dict[str, Target] = {target.name: target for target in faulty.TARGETS}
