"""Answers calls, whatever front has accepted them: admission, batches, streams.

`front.py` says what it needs of a front. `event_loop.py` asks it for events, `admission.py` accepts or
refuses calls, `call.py` and `stream_call.py` are calls, `sequence_waits.py` lets them wait for a write, and
`batching.py` answers the jobs that they submit.
"""
