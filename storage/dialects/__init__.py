"""What differs by database, and nothing of it elsewhere.

`types` has the columns' types, `sql` the expressions, `search` how a text is found, `nested` rows
within a row, `rows` what is written many rows at a time, `direct` what PostgreSQL's driver is sent
itself, `engine` what a connection is told. Each difference is a small function, its spellings side
by side.
"""
