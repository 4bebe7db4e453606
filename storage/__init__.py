"""The SQL side of Byline: knows SQLAlchemy, never gRPC or protobuf."""
