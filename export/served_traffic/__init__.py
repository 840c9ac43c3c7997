"""What a service has shown and users did with it: judges a challenger by it, and finds drift.

served_answers.py -> served log and events, joined by request
off_policy.py     -> the challenger's value from explored answers
preference.py     -> whether users prefer the challenger's items in interleaved answers
drift.py          -> whether queries, answers and items are still those of training
"""
