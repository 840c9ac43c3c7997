"""How a service follows an alias of the registry: `follow.py` is the process that does it.

Read in this order: `registry.py` and `registry_process.py` (what is asked of MLflow, and how it can be given
up on), `cache.py` (bundles on this disk), `memory.py` and `trial.py` (whether one can be
served), `target.py` (what the workers are told), `track.py` (one alias), `shadow_log.py` (what the shadow has
found, told to MLflow), `follow.py` (all of it).

No bundle is trusted: each is verified file by file, tried in a process that may crash, and served when every
worker has it ready. Until then, and whenever something goes wrong, the champion answers.
"""
