"""Work on mergeable texts, done in another process that may die of it.

    with TextWorker() as worker:
        opened, merged = worker.run([OpenText(begun, base), MergeText(begun, base, [(writer, patch)])])

A job that crashes, hangs or swallows memory is a `TextFailure` in its place; all others have their results.
`TextWorker` is in client.py; jobs and results are defined in crdtlog/kinds/text.py. The worker itself is `__main__`.
"""
