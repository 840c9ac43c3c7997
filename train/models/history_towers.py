"""What towers whose queries are histories have in common: a table of texts, content of new items, heads."""

import torch
from torch import nn

from twinspire.protos.features import IdFeature, Schema, TextFeature
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.heads import Head, ItemDotHead, QueryDotHead
from twinspire.train.models.text_hashing import WordHashing
from twinspire.train.models.tower_factory import EncoderFactories, feature_encoder
from twinspire.train.models.towers import ContentFallback


def text_factory(hashing: WordHashing, buckets: int, width: int) -> EncoderFactories:
    """Encoders of texts that share one table."""
    table = nn.Parameter(torch.randn(buckets, width) * 0.004)
    return {TextFeature: lambda: HashedTextEncoder(hashing, table, torch.ones(buckets))}


def content_fallback(schema: Schema, width: int, buckets: int, hashing: WordHashing) -> ContentFallback:
    """Encoders of an item's content, separate from the learned ones."""
    encoders = {
        name: feature_encoder(schema, "item", name, width, text_factory(hashing, buckets, width))
        for name, spec in schema.item.items()
        if not isinstance(spec, IdFeature)
    }
    return ContentFallback(encoders, width)


def inner_product_heads() -> tuple[Head, Head]:
    """The heads of query and item tower, with one radius for both."""
    radius = torch.ones(())
    return QueryDotHead(radius), ItemDotHead(radius)
