"""Where weights come from: files, the hub, GGUF, and adapters that are merged; whether they are whole."""
