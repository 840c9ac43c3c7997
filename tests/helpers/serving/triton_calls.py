"""What Triton's client makes of a server: `python triton_calls.py ADDRESS`, calls on stdin, results out.

A process of its own, because the client registers the protocol's messages under the names that ours have.
A call is what `infer` takes; a result is what it gives, or the status and the text of its error.
"""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

TYPES = {"BYTES": object, "FP32": np.float32, "FP64": np.float64}


def infer(client: triton.InferenceServerClient, call: dict[str, Any]) -> dict[str, Any]:
    inputs = []
    for name, datatype, values in call["inputs"]:
        array = np.array(values, TYPES[datatype])
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    outputs = [triton.InferRequestedOutput(name) for name in call["outputs"]] if "outputs" in call else None
    version, request_id = call.get("version", ""), call.get("id", "")
    try:
        result = client.infer(
            call["model"], inputs, version, outputs, request_id, client_timeout=10, **call.get("options", {})
        )
    except triton.InferenceServerException as error:
        return {"status": error.status(), "text": error.message()}
    response = result.get_response()
    return {
        "vectors": result.as_numpy("vector").tolist(),
        "model": response.model_name,
        "version": response.model_version,
        "id": response.id,
    }


def described(client: triton.InferenceServerClient, model: str) -> dict[str, Any]:
    return {
        "live": client.is_server_live(client_timeout=10),
        "ready": client.is_server_ready(client_timeout=10),
        "server": client.get_server_metadata(as_json=True, client_timeout=10),
        "model_ready": client.is_model_ready(model, client_timeout=10),
        "other_ready": client.is_model_ready("other", client_timeout=10),
        "other_version_ready": client.is_model_ready(model, "1", client_timeout=10),
        "model": client.get_model_metadata(model, as_json=True, client_timeout=10),
    }


def fields(message: Any) -> dict[str, dict[str, list[Any]]]:
    """The numbers and types of the fields of a message, and of those within it."""
    found = {
        message.full_name: {each.name: [each.number, each.type, each.is_repeated] for each in message.fields}
    }
    for each in message.nested_types:
        found |= fields(each)
    return found


def main() -> None:
    asked = json.load(sys.stdin)
    messages: dict[str, Any] = {}
    for message in service_pb2.DESCRIPTOR.message_types_by_name.values():
        messages |= fields(message)
    with triton.InferenceServerClient(sys.argv[1]) as client:
        results = [infer(client, call) for call in asked["calls"]]
        json.dump(
            {"described": described(client, asked["model"]), "results": results, "fields": messages},
            sys.stdout,
        )


if __name__ == "__main__":
    main()
