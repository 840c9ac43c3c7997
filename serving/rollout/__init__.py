"""Which bundle answers, and how a service follows an alias of the registry, in the process of `follower.py`.

No bundle is trusted. Each is verified file by file, validated in a process that may crash, and served when
every worker has loaded it. Until then, and if any step fails, the champion answers.
"""
