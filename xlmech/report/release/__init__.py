"""What a release is decided by, as files: the page of a comparison, JUnit XML and Markdown of a gate."""
