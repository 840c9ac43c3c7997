"""A made log of a grocer's purchases: a long tail of items, many repeats; a seed gives the same log."""

from pathlib import Path

import numpy as np

CATEGORY = 50  # items
TASTES = 4  # categories of a customer
REPEATS, COMPANIONS = 0.4, 0.2  # shares of the events
RECENT = 0.1  # a repeat takes the n-th last event with a chance that falls by this share with n
DAY = 86_400


def write_purchases(folder: Path, items: int, users: int, events: int = 60, seed: int = 0) -> Path:
    """`purchases.csv` (customer, product, at) and `purchases.toml`; returns the path of the latter.

    Two events of five repeat one of the customer's, mostly a late one. One of five takes the companion of the
    last item, which is the same for all. The others take an item of one of the customer's categories.
    Categories and their items have long tails, so many items are bought once, or never.

    Args:
        items: number of items; items without a purchase are not in the log.
        users: number of customers.
        events: purchases of each, a day or more apart.
    """
    draw = np.random.default_rng(seed)
    categories = -(-items // CATEGORY)
    share = 1 / (10 + np.arange(categories))
    within = 1 / (1 + np.arange(CATEGORY))
    companion = draw.integers(0, CATEGORY, items)
    lines = ["customer,product,at"]
    for user in range(users):
        tastes = draw.choice(categories, TASTES, p=share / share.sum())
        kinds, ages = draw.random(events), draw.geometric(RECENT, events)
        own = draw.choice(tastes, events) * CATEGORY
        own += draw.choice(CATEGORY, events, p=within / within.sum())
        begun, taken = int(draw.integers(0, 300)), list[int]()
        for n in range(events):
            item = int(own[n])
            if taken and kinds[n] < REPEATS:
                item = taken[-min(len(taken), int(ages[n]))]
            elif taken and kinds[n] < REPEATS + COMPANIONS:
                item = taken[-1] // CATEGORY * CATEGORY + int(companion[taken[-1] % items])
            taken.append(min(item, items - 1))
            lines.append(f"u{user},p{taken[-1]},{1_700_000_000 + (begun + n) * DAY}")
    (folder / "purchases.csv").write_text("\n".join(lines) + "\n")
    (folder / "purchases.toml").write_text(TOML)
    return folder / "purchases.toml"


TOML = """
name = "purchases-made"

[data]
kind = "events"
events = "purchases.csv"
user = "customer"
item = "product"
time = "at"

[split]
by = "last"

[query.history]
kind = "history"

[query.time]
kind = "time"

[item.id]
kind = "id"

[tower]
kind = "history"

[training]
epochs = 2
learning_rate = 2e-3
selection = "ndcg_at_10"
"""
