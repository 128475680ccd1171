"""The `xlmech` command."""
