"""A bundle in, answers out: `python -m serving serve`, then `python -m serving search "a query"`.

Read in this order.

- The retriever, without a transport: `query.py` and `answer.py` (what is asked and answered), `encoder.py`
  (query to vector), `index.py` and `graph_file.py` (vector to rows), `catalogue.py` (rows to items;
  `mapped.py` and `ready.py`: from files that processes share), `stages.py` and `retriever.py` (all of that).
  `bundles.py` finds what is to be served; `pyfunc_model.py` is the same retriever inside MLflow, `compare.py`
  two of them side by side.
- The service: `limits.py`, `convert.py`, `packed.py` and `status.py` (messages and errors), `servicer.py`
  (what a request asks for), `answer_bytes.py` and `unsent.py` (bounds on answers), `inference.py` with
  `tensors.py` and `feature_tensors.py` (the towers, by the Open Inference Protocol), `batching.py` and
  `slices.py`, `methods.py`, `rpc.py`, `stream_rpc.py`, `overload.py`, `refusals.py` and `reactor.py` (calls
  in, batches, answers out), `connection_monitor.py` (connections without calls), `heap.py`, `server.py` (one
  process of it), `workers.py`, `plan.py`, `service.py` (all of it).
- Which bundle answers: `served.py` (one, or one and a canary), `swap.py` (how a worker changes over),
  `board.py` (what processes tell one another), `releases.py` (what is told of it); how an alias is followed:
  `following/`; the shadow, a bundle that is asked too and that nobody waits for: `shadow/`.
- Who may ask: `tokens.py`, `guard.py`, `tls.py`, `expiry.py`, `watch.py` (files that are replaced),
  `access_files.py` (the same in the supervisor), `ratelimit.py`, and `THREATS.md`.
- What is told of it: `cells.py`, `counters.py`, `metrics.py`, `exposition.py`, `processes.py`; `call.py`,
  `tracing.py`, `requestlog.py`, `observer.py`.
- Those who use it: `client/`, `load/`, `demo.py`, and the commands in `__main__.py`.
"""

import os

# Read when gRPC is imported, so it stands here: connections are read by the thread that answers, as
# `reactor.py` says, which a variable that is set already may say otherwise. Clients are not touched by it.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

# ONNX Runtime's builds for Linux tell their maker of the models that they load (its docs/Privacy.md), by way
# of a database in the user's home. What is served is nobody else's business, unless the operator says so: 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
