"""What is asked: records and their readers, language packs, questions and probes, invented people."""
