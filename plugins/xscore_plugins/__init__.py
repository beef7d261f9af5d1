"""The reference plugins. Like all plugins, they reach the core by entry points and import `harness.api` only."""
