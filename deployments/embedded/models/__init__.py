"""The embedded models: real, small, and named for what they are."""
