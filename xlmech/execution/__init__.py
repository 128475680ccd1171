"""Run the same work in shards: resumable on disk, or on Ray."""
