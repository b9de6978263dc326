from __future__ import annotations

import pytest

from coordinator import servicers
from protos.wire import enrolment_pb2_grpc, round_pb2_grpc


@pytest.mark.parametrize(
    ("ours", "generated"),
    [
        (servicers.Round, round_pb2_grpc.RoundServicer),
        (servicers.Enrolment, enrolment_pb2_grpc.EnrolmentServicer),
    ],
)
def test_no_call_is_left_to_the_generated_base_class_which_raises(ours: type, generated: type) -> None:
    calls = {name for name in vars(generated) if not name.startswith("_")}
    assert calls
    assert calls <= set(vars(ours))
