"""Who belongs to a database: signed records, and the pure rules by which they count.

`records` knows the records' bytes. `graph` knows what each record says and whether its author might say it, which
depends on the record's own past alone. `evaluation` finds out what counts, from all records and from what every log
names. Why it is done so is told in docs/decisions/0019. Nothing here opens a file or reads a clock.
"""

from crdtlog.membership.evaluation import Conflict, Epoch, Evaluated, Logs, Own, Standing, evaluate
from crdtlog.membership.graph import Graph, Record, Said, context_digest
from crdtlog.membership.records import (
    ROLES,
    Add,
    Content,
    Founding,
    Genesis,
    Newcomer,
    Recover,
    Remove,
    Role,
    Rotate,
    Seen,
    database_id,
    decode_content,
    decode_genesis,
    encode_content,
    encode_genesis,
    newcomer_from,
    recovery_message,
)

__all__ = [
    "ROLES",
    "Add",
    "Conflict",
    "Content",
    "Epoch",
    "Evaluated",
    "Founding",
    "Genesis",
    "Graph",
    "Logs",
    "Newcomer",
    "Own",
    "Record",
    "Recover",
    "Remove",
    "Role",
    "Rotate",
    "Said",
    "Seen",
    "Standing",
    "context_digest",
    "database_id",
    "decode_content",
    "decode_genesis",
    "encode_content",
    "encode_genesis",
    "evaluate",
    "newcomer_from",
    "recovery_message",
]
