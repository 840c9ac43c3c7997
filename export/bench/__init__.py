"""How fast a bundle is on this machine, and how sure that is.

    python -m export bench --config train/configs/pydocs.toml [--bundle B] [--only towers retriever index]

`plan` says what is measured, `turns` how, `interval` how sure it is, `figures` what it is called. `towers`,
`retriever` and `index` are what is measured; `previous` and `budgets` are what it is held against.
"""
