"""The tables of a store of items."""

import sqlalchemy as sa

SCHEMA_VERSION = 1

TABLES = sa.MetaData()
META = sa.Table(
    "twinspire_meta",
    TABLES,
    sa.Column("one", sa.Integer, primary_key=True),  # 1: there is one row
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("store_id", sa.String(36), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("bounds", sa.Text, nullable=False),
    sa.Column("mark", sa.BigInteger, nullable=False, server_default="0"),  # of the sequence
)
HISTORY = sa.Table(
    "twinspire_history",
    TABLES,
    sa.Column(
        "sequence",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("mark", sa.BigInteger, nullable=False),
)
ITEMS = sa.Table(
    "twinspire_items",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False, unique=True),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("features", sa.Text, nullable=False),
    sa.Column("fields", sa.Text, nullable=False),
    sa.Column("written_at", sa.Float(53), nullable=False),
)
REQUESTS = sa.Table(
    "twinspire_requests",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False, index=True),
    sa.Column("written_at", sa.Float(53), nullable=False),
)
