"""The shadow: a process that answers a share of the searches from another bundle, and compares the answers.

    channel = ShadowChannel.create(workers=2)                      # in the supervisor, before it forks
    mirror = channel.mirror(slot, share=0.1)                 # in each worker: a `TrafficMirror`
    shadow = Shadow(channel, shared_state, model, limits)
    ProcessSpec("shadow", shadow.run)                        # a process of its own
    shadow_state(shared_state.read(SHADOW), channel.dropped)     # for Info
    shadow_readings(shared_state.read(SHADOW), channel.dropped)  # for /metrics

No request waits for the shadow. A worker sends it a share of its searches with their answers, or drops them
if the shadow is behind. The shadow runs only while no other process wants its core.
"""
