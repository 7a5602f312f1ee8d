"""Reads TensorBoard's event files without TensorBoard."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c


def _records(path):
    """The complete records of a file: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    content, at = path.read_bytes(), 0
    while len(header := content[at : at + 12]) == 12:
        size = struct.unpack("<Q", header[:8])[0]
        event = content[at + 12 : at + 12 + size]
        checksum = content[at + 12 + size : at + 16 + size]
        if len(checksum) < 4:  # cut off by a kill
            return
        assert struct.unpack("<I", header[8:])[0] == masked_crc32c(header[:8])
        assert struct.unpack("<I", checksum)[0] == masked_crc32c(event)
        yield Event.FromString(event)
        at += 16 + size


@pytest.fixture
def read_events():
    """Folder -> {tag: {step: value}} as TensorBoard shows it: a session's start voids what older ones said of its steps."""

    def read(folder):
        points = {}
        for path in sorted(folder.glob("events.out.tfevents.*")):
            for event in _records(path):
                if event.session_log.status == SessionLog.START:
                    points = {tag: {step: v for step, v in values.items() if step < event.step} for tag, values in points.items()}
                for value in event.summary.value:
                    row = points.setdefault(value.tag, {})
                    assert event.step not in row, f"{value.tag} has step {event.step} twice"
                    row[event.step] = value.simple_value
        return points

    return read
