"""The decision log of a server: what it decided about each response, in Parquet files."""
