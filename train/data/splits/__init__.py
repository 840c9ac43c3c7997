"""The split of pairs into training, validation and test.

    pairs = assign_parts(tables.pairs, SplitConfig(by="group", seed=0))

Pairs without an order of events:

- `group`: a hash of a group's id and the seed decides its part. So a log that grows does not move a group,
  where groups are many and each is smaller than the share of a part (`draw_groups`). No group is in two
  parts. `leave_out_known_queries` then removes the texts of test queries from validation and training, and
  those of validation queries from training; the items of these pairs are answers of the query held out.
- `time`: the latest pairs are test, those before them validation. Pairs at the same time are in the same
  part. A query may be in several parts.

Where a query may be in several parts, as in a log of clicks, the metrics of queries that are in training and
of those that are not are reported separately (`train/evaluation/query_groups.py`).

Pairs that are events of users: the model predicts later events from earlier ones. The history of a record is
`history[begin:end]`, a prefix of its user's history. It never contains the record's own event or a later one,
and the history of a validation record never contains an event of test:

| by             | test                    | validation             | history of a record               |
|----------------|-------------------------|------------------------|-----------------------------------|
| `last`         | a user's last positive  | the positive before it | events before it                  |
| `last_session` | a user's last session   | the session before it  | events before its session         |
| `time`         | the latest share of all | the share before that  | events before it; of test and     |
|                |                         |                        | validation, before the part's cut |
| `random`       | one positive, drawn     | another one, drawn     | events before it; of test and     |
|                |                         |                        | validation, all of training       |
| `group`        | whole users             | whole users            | events before it                  |

With `history = "event"`, a split by time gives each record the events that are strictly earlier than its own.

A negative event belongs to the part of its position among the positives: from the first tested positive on,
to test. In test and validation it has the history of the positives, so it does not reveal their items. With
`random`, negative events stay in training.

Validation and test hold no pair that the column `BY_RANKING` marks: a click on what a ranking alone chose to
show. An item that it did not show cannot be right there, so models that rank as it did would win (Yang et al.
2018). Such pairs of theirs have the part `SHOWN`, which nothing learns, and stay in histories. If fewer than
`LEAST_OTHERS` positive pairs were left in one of the two, all stay.

The negative history of a record is `negatives[negative_begin:negative_end]`: the user's negative events
before the record's own, up to the positive that follows its history; in a split by time, up to the same
moment as its history. So both together are the first events of the user, but not with `random`, where a
record of test has later events than its own in its history: features of negative histories are refused there.
"""
