"""The shadow: a process that asks another bundle what the service is asked, and compares the answers.

    channel = Channel.create(workers=2)                  # in the supervisor, before it forks
    tap = channel.tap(slot, share=0.1)                   # in each worker: a `ShadowTap`
    shadow = Shadow(channel, board, model, plan.limits)
    Role("shadow", shadow.run)                           # a process of its own
    shadow_state(board.read("shadow"), channel.dropped)  # for Info
    shadow_metrics(board.read("shadow"), channel.dropped)  # for /metrics

Nobody waits for it. A worker hands over a part of its queries with the answers that it gave, or drops them
where the shadow is behind, and the shadow runs only while nobody else wants its core.

Read in this order: `channel.py` (how queries come to it), `comparison.py` (what two answers say of each
other), `record.py` (what is counted), `process.py` (what it does), `report.py` (how it is told).
"""
