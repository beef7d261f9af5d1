"""The reference plugins. They reach the core by entry points, as anyone's do, and import `harness.api` only."""
