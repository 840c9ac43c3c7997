"""The shadow: a process that answers a share of the searches from another bundle, and compares the answers.

No request waits for the shadow. A worker sends it a share of its searches with their answers, or drops them
if the shadow is behind. The shadow runs only while no other process wants its core.
"""
