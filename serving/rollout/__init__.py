"""Which bundle answers, and how a service follows an alias of the registry; `follower.py` is the process that
does.

No bundle is trusted: each is verified file by file, validated in a process that may crash, and served when
every worker has loaded it. Until then, and if any step fails, the champion answers.
"""
