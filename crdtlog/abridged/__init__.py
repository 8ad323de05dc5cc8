"""What a device without history is given: what stands now, and the log without the values that do not.

A snapshot is a chain of parts (`parts`), each signed by the admin that gives it. `needed` knows of which rows earlier
values have to go along, `giving` makes a snapshot of a file, `taking` puts one into a file that has just joined, and
`base` keeps what it brought, for rows that have to be made anew. Why it is done so is told in docs/decisions/0027.
"""
