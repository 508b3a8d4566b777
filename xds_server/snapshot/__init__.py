"""What Envoys are sent: immutable, addressed by content, serialised once and shared by all streams."""

from xds_server.snapshot.resource import Resource, ResourceType, content_version
from xds_server.snapshot.snapshot import InconsistentSnapshotError, Snapshot

__all__ = ["InconsistentSnapshotError", "Resource", "ResourceType", "Snapshot", "content_version"]
