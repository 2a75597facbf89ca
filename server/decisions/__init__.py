"""The decision log: which responses become rows of it, and how."""
