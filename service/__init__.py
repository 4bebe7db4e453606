"""The gRPC side of Byline: knows protobuf, never SQL."""
