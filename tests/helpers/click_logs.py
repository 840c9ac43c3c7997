"""A log of clicks with strong biases of users and items, as CSV files; the same seed gives the same log."""

from pathlib import Path

import numpy as np

DIMENSION = 4


def write_clicks(
    folder: Path, users: int = 300, items: int = 120, events: int = 12_000, seed: int = 0
) -> None:
    """`clicks.csv` (user_id, item_id, at, device, clicked) and `items.csv` (item_id, shop, price).

    The probability of a click is sigmoid(b_u + b_i + b_device + <p_u, q_i> - 0.5), where the biases have a
    standard deviation of 1.2, 1.2 and 0.5, and the inner product one of 0.6. Item biases depend in part on
    the shop.
    """
    draw = np.random.default_rng(seed)
    user_bias, shop_bias = draw.normal(0, 1.2, users), draw.normal(0, 0.9, 12)
    shop = draw.integers(0, 12, items)
    item_bias = shop_bias[shop] + draw.normal(0, 0.8, items)
    device_bias = np.array([-0.5, 0.0, 0.5])
    scale = (0.6 / DIMENSION**0.5) ** 0.5
    taste, kind = draw.normal(0, scale, (users, DIMENSION)), draw.normal(0, scale, (items, DIMENSION))
    user, item = draw.integers(0, users, events), draw.integers(0, items, events)
    device = draw.integers(0, 3, events)
    logit = user_bias[user] + item_bias[item] + device_bias[device] + (taste[user] * kind[item]).sum(1) - 0.5
    clicked = draw.random(events) < 1 / (1 + np.exp(-logit))
    price = np.round(np.exp(draw.normal(2, 0.5, items)), 2)
    rows = zip(user, item, range(events), device, clicked.astype(int), strict=True)
    lines = [f"u{u},i{i},{1_700_000_000 + n * 60},d{d},{c}" for u, i, n, d, c in rows]
    (folder / "clicks.csv").write_text("user_id,item_id,at,device,clicked\n" + "\n".join(lines) + "\n")
    lines = [f"i{n},shop{shop[n]},{price[n]}" for n in range(items)]
    (folder / "items.csv").write_text("item_id,shop,price\n" + "\n".join(lines) + "\n")


CLICKS_TOML = """
name = "clicks-made"

[data]
kind = "events"
events = "clicks.csv"
items = "items.csv"
time = "at"
label = "clicked"
positive_from = 1

[split]
by = "time"
history = "event"

[query.history]
kind = "history"

[query.skipped]
kind = "negative_history"

[query.user]
kind = "category"
column = "user_id"
min_count = 1

[query.device]
kind = "category"
column = "device"

[item.id]
kind = "id"

[item.shop]
kind = "category"
column = "shop"

[item.price]
kind = "number"
column = "price"

[tower]
kind = "clicks"
dimension = 8

[training]
epochs = 6
batch_size = 256
learning_rate = 1e-2
weight_decay = 0.1
selection = "log_loss"
threads = 1
"""
